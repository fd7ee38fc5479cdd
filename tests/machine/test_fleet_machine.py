"""Random histories of the fleet: whatever happens in whatever order, the promises hold after every step.

The machine plays operators, clients, workers (good, dying and lying ones) and time; `teardown` ends every history with a
shutdown in which every process dies, after which nothing may be left unanswered.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lmx_protocol.messages import Begin, Cancelled, StepEvents
from lmx_protocol.states import ComputeSharing, WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.arbiter import computing, shared_out
from lmx_supervisor.core.choosing import next_in_line
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.ledger import is_terminal
from lmx_supervisor.core.places import Places, most_of_model
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, STARTING, Slot
from tests.support.stage import Stage

SHARING = {"a": ComputeSharing.THREADS, "b": ComputeSharing.THREADS, "c": ComputeSharing.TIME}
MODELS = tuple(SHARING)
models = st.sampled_from(MODELS)
limit = st.integers(1, 3)
claims = st.fixed_dictionaries(
    {"client": st.sampled_from("abc"), "lane": st.sampled_from(Lane)},
    optional={
        "key": st.sampled_from("kl"),
        "key_limit": st.just(2),
        "time_limit_seconds": st.sampled_from([0.5, 30.0]),
    },
).map(lambda claim: claim if "key_limit" in claim else {name: claim[name] for name in claim if name != "key"})
with_process = STARTING | SERVING | {WorkerState.DRAINING}


class FleetMachine(RuleBasedStateMachine):
    """One supervisor's life."""

    judged = 0
    """How many actions were looked at for limits."""

    @initialize(spare=st.booleans())
    def begin(self, spare: bool) -> None:
        policy = Policy(warm_spare=spare, queue_per_model=3, queue_total=4, drain_seconds=5.0, adaptive_latency_window=8)
        self.stage = Stage(policy)
        self.stage.do(e.ProcessorsCounted(2))
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

    @rule(model=models, prompt=st.sampled_from("xyz"), claim=claims)
    def ask(self, model: str, prompt: str, claim: dict[str, Any]) -> None:
        request_id = f"r{len(self.asked)}"
        self.asked.add(request_id)
        self.stage.ask(request_id, model, prompt=prompt, **claim)

    @rule(altogether=st.integers(1, 8), of_model=st.none() | limit, of_client=st.none() | limit, adapts=st.booleans())
    def change_limits(self, altogether: int, of_model: int | None, of_client: int | None, adapts: bool) -> None:
        """The configuration is read again while requests run and wait; with the next tick it holds for those who wait too."""
        self.stage.fleet.policy = dataclasses.replace(
            self.stage.fleet.policy,
            max_concurrent_requests=altogether,
            per_model_concurrency_limits={} if of_model is None else {"a": of_model},
            per_client_default_concurrency=of_client,
            adaptive_concurrency_enabled=adapts,
        )
        self.stage.tick(0.25)

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
            self.stage.loaded(model, sharing=SHARING[model])
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

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        """Whatever happened: a request that no limit stops, on a model that serves, has its place."""
        if hasattr(self, "stage"):
            state = self.stage.fleet.state
            assert next_in_line(state, Places(state.ledger.entries), self.stage.now) is None

    @invariant()
    def no_limit_is_passed(self) -> None:
        """Whoever got a place left every limit kept: of all models, of the model, of the client, of the key."""
        if not hasattr(self, "stage"):
            return
        state, policy = self.stage.fleet.state, self.stage.fleet.policy
        new, self.judged = self.stage.actions[self.judged :], len(self.stage.actions)
        began = {action.message.request.request_id for action in new if _is_begin(action)}
        placed = [entry for entry in state.ledger.entries if entry.incarnation and entry.takes_a_place and not entry.internal]
        for entry in placed:
            if entry.request_id in began:
                claim, slot = entry.claim, state.slots[entry.model_id]
                assert len(placed) <= policy.max_concurrent_requests
                assert sum(each.model_id == entry.model_id for each in placed) <= most_of_model(state, slot)
                of_client = sum(each.claim.client == claim.client for each in placed)
                assert of_client <= (policy.per_client_default_concurrency or of_client)
                assert claim.key is None or sum(each.claim.key == claim.key for each in placed) <= claim.key_limit

    @invariant()
    def the_host_is_shared_out_as_it_is_used(self) -> None:
        """Every worker that computes was told its part beside those that compute now, not beside those that did."""
        if hasattr(self, "stage"):
            state = self.stage.fleet.state
            grants = shared_out(state.processors, computing(state))
            assert {name: state.incarnations[name].grant for name in grants} == grants

    @invariant()
    def lines_are_short(self) -> None:
        """What waits is bounded for every model and altogether, but for what its worker's death brought back."""
        if hasattr(self, "stage"):
            lines = [[entry for entry in slot.waiting.entries if not entry.replays] for slot in self._slots()]
            assert max(map(len, lines), default=0) <= self.stage.fleet.policy.queue_per_model
            assert sum(map(len, lines)) <= self.stage.fleet.policy.queue_total

    def _slots(self) -> Collection[Slot]:
        return self.stage.fleet.state.slots.values()

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


def _is_begin(action: a.Action) -> bool:
    return isinstance(action, a.Send) and isinstance(action.message, Begin)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
