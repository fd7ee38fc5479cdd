"""What is kept when the supervisor gives itself up: a crash bundle of its own, like a worker's."""

import os

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Autopsy
from lmx_supervisor.core.exit_reason import ExitObservation, ExitReason, Verdict


def own_autopsy(boot_id: str, uptime_seconds: float, stacks: str, story: list[str]) -> Autopsy:
    """For a supervisor whose decisions failed again and again."""
    crash_id = f"{boot_id}-supervisor"
    text = "the supervisor's own decisions failed several times within a minute; it leaves, to be started afresh"
    return Autopsy(
        crash_id=crash_id,
        model_id=None,
        backend="supervisor",
        backend_version=None,
        pid=os.getpid(),
        state=WorkerState.FAILED,
        verdict=Verdict(ExitReason.SUPERVISOR_FAILED, text, crash_id),
        observation=ExitObservation(code=1, crash_head=stacks),
        uptime_seconds=uptime_seconds,
        spec=None,
        facts=None,
        story=tuple((0.0, line) for line in story),
        memory_curve=(),
        requests=(),
    )
