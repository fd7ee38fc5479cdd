"""The judge: sees every event before and after the core does, and hands it to those who know one kind of promise."""

from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.slot import SERVING
from tests.sim.judging.orders import OrdersJudge
from tests.sim.judging.poison import CrashRecord
from tests.sim.judging.promise import AwakeClock, promise
from tests.sim.judging.requests import RequestsJudge
from tests.sim.judging.restarts import RestartsJudge
from tests.sim.judging.workers import WorkersJudge
from tests.sim.worker import SimWorker

_REST = SERVING | {WorkerState.QUARANTINED, WorkerState.FAILED}


class Judge:
    """Raises `BrokenPromiseError` at the first event after which a promise is broken."""

    def __init__(self, fleet: Fleet, workers: dict[str, SimWorker]) -> None:
        clock = self._clock = AwakeClock()
        self._fleet = fleet
        self._stopped_told = 0
        self.quarantines = 0
        self._crashes = CrashRecord(fleet, clock)
        self._workers = WorkersJudge(fleet, workers, clock)
        self._requests = RequestsJudge(fleet, workers, clock, self._crashes)
        self._restarts = RestartsJudge(fleet, clock)
        self._orders = OrdersJudge()

    def before(self, event: e.Event, now: float) -> None:
        """The core is about to handle an event."""
        self._clock.note(now, is_tick=isinstance(event, e.Tick))
        self._crashes.before(event)
        self._workers.before(event)
        self._requests.before(event)
        self._restarts.before(event)
        self._orders.before(event)

    def after(self, event: e.Event, actions: list[a.Action], now: float) -> None:
        """The core has handled it."""
        told = [action for action in actions if isinstance(action, a.Tell)]
        reason = next((ExitReason(str(tell.fields["reason"])) for tell in told if tell.kind == "worker_exited"), None)
        self.quarantines += sum(tell.kind == "model_quarantined" for tell in told)
        self._stopped_told += sum(isinstance(action, a.AllStopped) for action in actions)
        self._crashes.after(event, reason)
        self._requests.after(event, actions, now)
        self._workers.after(event, actions)
        self._restarts.after(event, actions, reason, now)
        self._orders.after(actions)

    @property
    def requests_asked(self) -> int:
        """How many requests the day has seen."""
        return len(self._requests.asked)

    def requests_ended(self) -> dict[str, int]:
        """How requests ended, by kind."""
        counts: dict[str, int] = {}
        for asked in self._requests.asked.values():
            kind = type(asked.end).__name__ if asked.end is not None else "open"
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def at_rest(self) -> bool:
        """Whether nothing is under way: every model is served or given up, and everybody has an answer."""
        slots = self._fleet.state.slots.values()
        still = all(slot.state in _REST for slot in slots)
        doomed = any(watched.doomed_at is not None for watched in self._workers.watched.values())
        return still and not doomed and not self._requests.open and not self._orders.open

    def judge_rest(self) -> None:
        """After the faults: what is wanted is served."""
        for slot in self._fleet.state.slots.values():
            promise(not slot.wanted or slot.state in SERVING, f"{slot} is wanted and not served")

    def judge_end_of_day(self) -> None:
        """After the drain: nothing and nobody is left."""
        self._requests.judge_end_of_day()
        self._orders.judge_end_of_day()
        promise(not self._workers.watched, f"processes are left: {sorted(self._workers.watched)}")
        promise(not len(self._fleet.state.ledger), "the ledger is not empty")
        promise(self._stopped_told == 1, f"the end of the drain was told {self._stopped_told} times")
