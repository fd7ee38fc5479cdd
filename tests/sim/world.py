"""The world around the core: it performs actions as the runtime would, and turns what workers do into events.

Real delays and no others: the messages of one link stay in order, links race with each other, an exit is reported after the
last words of the dead or before them, a pid may be known late, and who sleeps hears everything afterwards.
"""

import random
from collections import deque
from collections.abc import Callable

from lmx_protocol.messages import FromWorker
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.fleet import Fleet
from tests.sim.agenda import Agenda
from tests.sim.fates import Deed, Fate, draw_fate
from tests.sim.judging.judge import Judge
from tests.sim.scenario import Scenario
from tests.sim.worker import SimWorker

START_AT = 1000.0
SLOW_LINK_SHARE = 0.1
SPAWN_FAILURE_SHARE = 0.15
"""Of the misfortune."""
LATE_PID_SHARE = 0.1
LATE_MEMORY_SHARE = 0.2


class World:
    """Everything outside the core, on one agenda."""

    def __init__(self, scenario: Scenario, rng: random.Random, trace: Callable[[str], None] | None) -> None:
        self.scenario = scenario
        self.rng = rng
        self.agenda = Agenda(START_AT)
        self.fleet = Fleet(f"sim{scenario.seed}", scenario.policy)
        self.workers: dict[str, SimWorker] = {}
        self.judge = Judge(self.fleet, self.workers)
        self.calm = False
        self.stopped = False
        self.events_handled = 0
        self._trace = trace
        self._links: dict[str, deque[e.Event]] = {}
        self._link_busy_until: dict[str, float] = {}
        self._paused_until = 0.0
        self._inbox: deque[e.Event] = deque()
        self._handling = False
        self._tick()

    def calm_down(self) -> None:
        """The faults stop: workers to come are good, and those there are do no new harm."""
        self.calm = True
        for worker in self.workers.values():
            worker.calm()

    # --- time ---------------------------------------------------------------------------------------------------------------

    def sleep_machine(self, seconds: float) -> None:
        """The machine sleeps: nobody does anything, and the clock jumps."""
        self._note(f"the machine sleeps {seconds:.1f} s")
        if self.agenda.now < self._paused_until:
            self._paused_until += seconds
        self.agenda.skip(seconds)
        self._link_busy_until = {name: until + seconds for name, until in self._link_busy_until.items()}

    def pause_supervisor(self, seconds: float) -> None:
        """The supervisor alone is stopped; workers go on, and it hears of everything afterwards."""
        if self.agenda.now >= self._paused_until:
            self._note(f"the supervisor is stopped for {seconds:.1f} s")
            self._paused_until = self.agenda.now + seconds

    def _tick(self) -> None:
        self.post(e.Tick())
        self._when_awake(self.agenda.now + self.scenario.tick_seconds, self._tick)

    def _when_awake(self, when: float, act: Callable[[], None]) -> None:
        def act_or_wait() -> None:
            if self.agenda.now < self._paused_until:
                self.agenda.at(self._paused_until, act)
            else:
                act()

        self.agenda.at(when, act_or_wait)

    # --- the loop of the runtime ----------------------------------------------------------------------------------------------

    def post(self, event: e.Event) -> None:
        """Have the core handle an event, now or right after the one it is handling."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        while self._inbox:
            self._handle(self._inbox.popleft())
        self._handling = False

    def post_when_awake(self, event: e.Event) -> None:
        """An operator or client speaks: heard at once, unless the supervisor is stopped."""
        self._when_awake(self.agenda.now, lambda: self.post(event))

    def _handle(self, event: e.Event) -> None:
        now = self.agenda.now
        self.events_handled += 1
        if self._trace is not None and not isinstance(event, e.Tick):
            self._note(f"→ {event}")
        self.judge.before(event, now)
        decided = self.fleet.handle(event, now)
        if self._trace is not None:
            for action in decided:
                if not isinstance(action, a.Autopsy):
                    self._note(f"    {action}")
        self.judge.after(event, decided, now)
        for action in decided:
            if isinstance(action, a.Spawn):
                self._spawn(action)
            elif isinstance(action, a.Send):
                self._send(action)
            elif isinstance(action, a.Signal):
                self._signal(action)
            elif isinstance(action, a.VerifyMemory):
                self._verify_memory(action)
            elif isinstance(action, a.AllStopped):
                self.stopped = True

    # --- workers --------------------------------------------------------------------------------------------------------------

    def _spawn(self, action: a.Spawn) -> None:
        scenario, rng = self.scenario, self.rng
        misfortune = 0.0 if self.calm else scenario.misfortune
        if rng.random() < misfortune * SPAWN_FAILURE_SHARE:
            self.post(e.SpawnFailed(action.incarnation, "Resource temporarily unavailable"))
            return
        fate = draw_fate(rng, misfortune) if misfortune else Fate()
        worker = SimWorker(
            action.incarnation,
            action.backend,
            agenda=self.agenda,
            rng=rng,
            fate=fate,
            step_seconds=scenario.step_seconds,
            watchdog_seconds=2 * scenario.policy.beat_dead_seconds,
            tell=self._told,
            tell_garbage=lambda worker: self._over_the_link(worker, e.Misbehaved(worker.name, "bytes that are no message")),
            report_exit=self._exited,
        )
        if self._trace is not None:
            self._note(f"    {action.incarnation} will see {fate}")
        self.workers[action.incarnation] = worker
        self._links[action.incarnation] = deque()
        self._link_busy_until[action.incarnation] = 0.0
        spawned = e.Spawned(action.incarnation, len(self.workers))
        if rng.random() < LATE_PID_SHARE:
            self._when_awake(self.agenda.now + rng.uniform(0.0, 1.0), lambda: self.post(spawned))
        else:
            self.post(spawned)

    def _send(self, action: a.Send) -> None:
        worker = self.workers[action.incarnation]
        self.agenda.after(0.001, lambda: worker.receive(action.message))

    def _signal(self, action: a.Signal) -> None:
        # A worker whose start failed has no process to signal.
        worker = self.workers.get(action.incarnation)
        if worker is not None:
            self.agenda.after(0.001, lambda: worker.receive_signal(action.signal))

    def _told(self, worker: SimWorker, message: FromWorker) -> None:
        self._over_the_link(worker, e.Said(worker.name, message))

    def _over_the_link(self, worker: SimWorker, event: e.Event) -> None:
        now, name = self.agenda.now, worker.name
        slow = self.rng.random() < SLOW_LINK_SHARE
        arrives_at = max(self._link_busy_until[name], now + (self.rng.uniform(0.0, 0.4) if slow else 0.001))
        self._link_busy_until[name] = arrives_at
        self._links[name].append(event)
        self._when_awake(arrives_at, lambda: self.post(self._links[name].popleft()))

    def _exited(self, worker: SimWorker, seen: ExitObservation) -> None:
        unheard = worker.fate.deed is Deed.DIE_UNHEARD
        reported_at = self.agenda.now + 0.001
        if not unheard:
            reported_at = max(reported_at, self._link_busy_until[worker.name])
        self._when_awake(reported_at, lambda: self.post(e.Exited(worker.name, seen)))

    def _verify_memory(self, action: a.VerifyMemory) -> None:
        """The dead give their memory back: at once, within a while, or only long after it was given up as lost."""
        rng = self.rng
        returns_late = not self.calm and rng.random() < LATE_MEMORY_SHARE
        missing_bytes = rng.choice((action.owed_bytes, action.owed_bytes // 2)) if returns_late else 0
        available_bytes = rng.choice((1 << 28, 16 << 30)) if missing_bytes else 16 << 30
        checked_at = self.agenda.now + rng.choice((0.0, 0.1, 3.0))
        checked = e.MemoryChecked(action.incarnation, missing_bytes, available_bytes)
        self._when_awake(checked_at, lambda: self.post(checked))
        if missing_bytes:
            back = e.MemoryChecked(action.incarnation, 0, 16 << 30)
            self._when_awake(checked_at + 6.0, lambda: self.post(back))

    def _note(self, text: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.agenda.now - START_AT:9.3f} {text}")
