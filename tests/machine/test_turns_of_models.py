"""A day of models that do not fit together and are all wanted: nobody is starved, and no time is wasted on loads."""

from lmx_protocol.messages import Finished, Load
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, Slot
from tests.support.stage import Stage

MODELS = ("a", "b", "c")
NEED, TOTAL = 60_000, 100_000
SECONDS = 1800
RESIDENCY_SECONDS = 20
ANSWER_SECONDS = 3
LOAD_SECONDS = 4
LEAVE_SECONDS = 1
ASKS_EVERY_SECONDS = 32
ASKS_AT_ONCE = 4
"""More than a model has places, so that it is in use and waited for when its turn is over; less than there is time for."""


class Day:
    """Workers that take their time, and clients that ask for every model in constant rhythm."""

    def __init__(self) -> None:
        policy = Policy(
            warm_spare=False, load_on_demand=True, least_residency_seconds=RESIDENCY_SECONDS, queue_wait_seconds=600
        )
        self.stage = Stage(policy)
        self.stage.host(TOTAL)
        self.asked_at: dict[str, float] = {}
        self.waits: dict[str, list[float]] = {model: [] for model in MODELS}

    def ask(self, model: str) -> None:
        """A client wants an answer."""
        request_id = f"{model}{len(self.asked_at)}"
        self.asked_at[request_id] = self.stage.now
        self.stage.demand(model, NEED)
        self.stage.ask(request_id, model)

    def second(self) -> None:
        """Every worker does what it does in a second."""
        for slot in list(self.stage.fleet.state.slots.values()):
            if slot.incarnation is None:
                continue
            since = self.stage.now - slot.state_since
            if slot.state is WorkerState.DRAINING:
                if not slot.running and since >= LEAVE_SECONDS:
                    self.stage.do(e.Exited(slot.incarnation, ExitObservation(code=0)))
            elif slot.state is WorkerState.SPAWNING and slot.incarnation in self.stage.fleet.state.incarnations:
                if self.stage.fleet.state.incarnations[slot.incarnation].hello_at is None:
                    self.stage.hello(slot.model_id)
            elif slot.state is WorkerState.LOADING and since >= LOAD_SECONDS:
                self.stage.loaded(slot.model_id)
                self.stage.canary(slot.model_id)
            elif slot.state in SERVING:
                self.answer(slot)
        self.stage.tick(1.0)

    def answer(self, slot: Slot) -> None:
        """What has run for long enough is answered."""
        self.stage.beat(slot.model_id)
        for request_id in sorted(slot.running):
            entry = self.stage.fleet.state.ledger.get(request_id)
            if entry is not None and self.stage.now - entry.leased_at >= ANSWER_SECONDS:
                self.waits[slot.model_id].append(entry.leased_at - entry.arrived_at)
                self.stage.finish(request_id, slot.model_id, seq=0)


def test_three_models_that_are_always_wanted_all_have_their_turns() -> None:
    """Memory for one: every request is answered within a round of turns, and no turn is shorter than the residency."""
    day = Day()
    for second in range(SECONDS):
        for number, model in enumerate(MODELS):
            if second % ASKS_EVERY_SECONDS == 8 * number:
                for _ in range(ASKS_AT_ONCE):
                    day.ask(model)
        day.second()
    turn_seconds = RESIDENCY_SECONDS + ANSWER_SECONDS + LEAVE_SECONDS + LOAD_SECONDS
    # The next second notices what the last one did.
    round_seconds = len(MODELS) * (turn_seconds + 4)
    loads = [load.model.model_id for load in day.stage.sent(Load)]
    ends = [day.stage.ends(request_id) for request_id in day.asked_at]

    asked = SECONDS // ASKS_EVERY_SECONDS * ASKS_AT_ONCE
    left_over = round_seconds // ASKS_EVERY_SECONDS * ASKS_AT_ONCE + ASKS_AT_ONCE

    assert all(isinstance(end[0], Finished) for end in ends if end), "somebody was refused"
    assert all(len(each) >= asked - left_over for each in day.waits.values())
    assert max(max(each) for each in day.waits.values()) <= round_seconds
    assert SECONDS / round_seconds - 1 <= len(loads) / len(MODELS) <= SECONDS / (len(MODELS) * RESIDENCY_SECONDS)
    assert day.stage.told("model_yields"), "nobody was in use when its turn was over: make the day busier"
