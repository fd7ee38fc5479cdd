"""Random histories of the fleet: whatever happens in whatever order, the promises hold after every step.

The machine plays operators, clients, workers (good, dying and lying ones) and time; `teardown` ends every history with a
shutdown in which every process dies, after which nothing may be left unanswered.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lmx_protocol.messages import Cancelled, StepEvents
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.ledger import is_terminal
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, STARTING, Slot
from tests.support.stage import Stage

MODELS = ("a", "b", "c")
models = st.sampled_from(MODELS)
with_process = STARTING | SERVING | {WorkerState.DRAINING}


class FleetMachine(RuleBasedStateMachine):
    """One supervisor's life."""

    @initialize(spare=st.booleans())
    def begin(self, spare: bool) -> None:
        self.stage = Stage(Policy(warm_spare=spare, queue_per_model=3, queue_total=4, drain_seconds=5.0))
        self.asked: set[str] = set()
        self.orders: set[str] = set()
        self.seen = 0
        self.ended: set[str] = set()

    # --- operators and clients --------------------------------------------------------------------------------------------

    @rule(model=models, at_start=st.booleans(), digest=st.sampled_from("12"), force=st.booleans())
    def load(self, model: str, at_start: bool, digest: str, force: bool) -> None:
        self.orders.add(self.stage.load(model, at_start=at_start, digest=digest, force=force))

    @rule(model=models)
    def restart(self, model: str) -> None:
        self.orders.add(self._order(e.RestartWanted, model))

    @rule(model=st.one_of(models, st.none()))
    def clear_quarantine(self, model: str | None) -> None:
        self.orders.add(self._order(e.QuarantineClearWanted, model))

    @rule(model=models)
    def unload(self, model: str) -> None:
        self.orders.add(self.stage.unload(model))

    @rule(model=models, prompt=st.sampled_from("xyz"))
    def ask(self, model: str, prompt: str) -> None:
        request_id = f"r{len(self.asked)}"
        self.asked.add(request_id)
        self.stage.ask(request_id, model, prompt=prompt)

    @rule(model=models)
    def ask_for_count(self, model: str) -> None:
        request_id = f"r{len(self.asked)}"
        self.asked.add(request_id)
        self.stage.ask_for_count(request_id, model)

    @rule(number=st.integers(0, 30))
    def cancel(self, number: int) -> None:
        self.stage.do(e.RequestCancelled(f"r{number}"))

    # --- workers ----------------------------------------------------------------------------------------------------------

    @rule(model=models)
    def progress(self, model: str) -> None:
        """The worker of a model does the next thing it is expected to do."""
        slot = self._slot_with_process(model)
        if slot is None:
            return
        if slot.state is WorkerState.SPAWNING:
            self.stage.hello(model)
        elif slot.state is WorkerState.LOADING:
            self.stage.loaded(model)
        elif slot.state is WorkerState.WARMING:
            self.stage.canary(model)

    @rule(model=models, end=st.booleans())
    def answer(self, model: str, end: bool) -> None:
        """The worker of a model streams a piece of its oldest request, or ends it."""
        entry = self._oldest_running(model)
        if entry is None:
            return
        if entry.cancelled:
            self.stage.say(StepEvents(events=(Cancelled(request_id=entry.request_id, seq=entry.next_seq),)), model)
        elif end or not entry.takes_a_place:
            self.stage.finish(entry.request_id, model, seq=entry.next_seq)
        else:
            self.stage.text(entry.request_id, entry.next_seq, model)

    @rule(model=models, lie=st.sampled_from(["gap", "stranger", "again"]))
    def lie(self, model: str, lie: str) -> None:
        """The worker of a model breaks the protocol."""
        entry = self._oldest_running(model)
        if entry is None:
            return
        if lie == "gap":
            self.stage.text(entry.request_id, entry.next_seq + 1, model)
        elif lie == "stranger":
            self.stage.text("stranger", 0, model)
        else:
            self.stage.hello(model)

    @rule(model=models, how=st.sampled_from([9, 11, 6, 15]))
    def die(self, model: str, how: int) -> None:
        if self._slot_with_process(model) is not None:
            self.stage.die(model, signal=how)

    @rule()
    def a_spare_comes_or_goes(self) -> None:
        for incarnation in list(self.stage.fleet.state.incarnations.values()):
            if incarnation.model_id is None:
                if incarnation.hello_at is None:
                    self.stage.imported(incarnation.name)
                else:
                    self.stage.do(e.Exited(incarnation.name, ExitObservation(signal_number=9)))

    @rule(seconds=st.sampled_from([0.0, 1.0, 40.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.tick(seconds)

    # --- promises ---------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_follows_an_end(self) -> None:
        """Each request ends at most once, and nothing is delivered after its end."""
        if hasattr(self, "stage"):
            self._note_ends()

    def _note_ends(self) -> None:
        new, self.seen = self.stage.actions[self.seen :], len(self.stage.actions)
        for action in new:
            if isinstance(action, a.Deliver):
                assert action.event.request_id not in self.ended
                if is_terminal(action.event):
                    self.ended.add(action.event.request_id)

    @invariant()
    def every_open_request_is_in_one_place(self) -> None:
        """Waiting in its model's line, or leased to a process that lives."""
        if not hasattr(self, "stage"):
            return
        self._note_ends()
        state = self.stage.fleet.state
        for request_id in self.asked - self.ended:
            entry = state.ledger.get(request_id)
            assert entry is not None
            slot = state.slots[entry.model_id]
            if entry.incarnation is None:
                assert list(slot.waiting).count(request_id) == 1
            else:
                assert entry.incarnation in state.incarnations
                assert request_id in slot.running

    @invariant()
    def slots_are_consistent(self) -> None:
        """A slot has a process exactly in the states that need one, is BUSY exactly with requests, and never over capacity.

        What needs no place in the batch is bounded by the same number, and waits for nothing else.
        """
        if not hasattr(self, "stage"):
            return
        ledger = self.stage.fleet.state.ledger
        for slot in self.stage.fleet.state.slots.values():
            assert (slot.incarnation in self.stage.fleet.state.incarnations) == (slot.state in with_process)
            if slot.state in SERVING:
                assert (slot.state is WorkerState.BUSY) == bool(slot.running)
            leased = Counter(ledger.get(request_id).takes_a_place for request_id in slot.running)
            assert max(leased[True], leased[False]) <= slot.capacity()

    def teardown(self) -> None:
        """A shutdown in which every process dies answers everybody who is still waiting."""
        if not hasattr(self, "stage"):
            return
        self.stage.do(e.DrainWanted(1.0))
        self.stage.tick(2.0)
        for name in list(self.stage.fleet.state.incarnations):
            self.stage.do(e.Exited(name, ExitObservation(code=0)))
        self._note_ends()
        assert self.asked == self.ended
        kinds = (a.LoadSettled, a.UnloadSettled, a.QuarantineSettled, a.OrderRefused)
        settled = [action for kind in kinds for action in self.stage.of(kind)]
        assert Counter(action.order_id for action in settled) == Counter(self.orders)
        assert len(self.stage.of(a.AllStopped)) == 1

    # --- looking ----------------------------------------------------------------------------------------------------------

    def _slot_with_process(self, model: str) -> Slot | None:
        slot = self.stage.fleet.state.slots.get(model)
        return slot if slot is not None and slot.state in with_process else None

    def _order(self, kind: type[e.RestartWanted] | type[e.QuarantineClearWanted], model: str | None) -> str:
        order_id = f"order-{len(self.orders)}-{kind.__name__}"
        self.stage.do(kind(order_id, model))
        return order_id

    def _oldest_running(self, model: str):  # type: ignore[no-untyped-def]
        slot = self._slot_with_process(model)
        if slot is None or slot.incarnation is None:
            return None
        leased = self.stage.fleet.state.ledger.of_incarnation(slot.incarnation)
        return next((entry for entry in leased if not entry.internal), None)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
