"""Promises about requests that crash their model: who is accused at a death, and that only who was there twice is refused."""

from lmx_protocol import limits
from lmx_protocol.messages import GenerateRequest
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import BLAMES_REQUESTS, ExitReason
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.poison import fingerprint
from tests.sim.judging.promise import AwakeClock, promise


class CrashRecord:
    """Which fingerprints were in flight at which deaths; the truth that suspicions are measured by."""

    def __init__(self, fleet: Fleet, clock: AwakeClock) -> None:
        self._fleet = fleet
        self._clock = clock
        self._deaths: dict[str, list[float]] = {}
        self._accusable: set[str] = set()
        self._in_flight: set[str] = set()
        self._crashes_before: dict[str, int] = {}

    def is_poison(self, request: GenerateRequest, awake_now: float) -> bool:
        """Whether it was really in flight at two deaths of late."""
        deaths = self._deaths.get(fingerprint(request), [])
        return len(deaths) >= limits.POISON_CRASHES and awake_now - deaths[-1] <= limits.POISON_SECONDS

    def before(self, event: e.Event) -> None:
        """Who is in flight when a worker is reported dead."""
        if not isinstance(event, e.Exited):
            return
        entries = [entry for entry in self._fleet.state.ledger.of_incarnation(event.incarnation) if not entry.internal]
        on_trial = [entry for entry in entries if entry.on_trial]
        self._in_flight = {fingerprint(entry.request) for entry in entries}
        self._accusable = {fingerprint(entry.request) for entry in on_trial or entries}
        self._crashes_before = self._held()

    def after(self, event: e.Event, reason: ExitReason | None) -> None:
        """Whether the right ones were accused, once each."""
        if not isinstance(event, e.Exited) or reason is None:
            return
        held = self._held()
        accused = {key for key, crashes in held.items() if crashes > self._crashes_before.get(key, 0)}
        if reason not in BLAMES_REQUESTS:
            promise(not accused, f"a death of {reason} accused requests")
            return
        for key in self._in_flight:
            self._deaths.setdefault(key, []).append(self._clock.now)
        promise(accused <= self._accusable, "a request was accused that was not on trial while another was, or was not there")
        for key in accused:
            promise(held[key] == self._crashes_before.get(key, 0) + 1, "one death was held twice against one request")
        promise(len(held) <= limits.SUSPECTS_MAX, "suspicions are not bounded")

    def _held(self) -> dict[str, int]:
        return {key: suspicion.crashes for key, suspicion in self._fleet.state.suspects._held.items()}
