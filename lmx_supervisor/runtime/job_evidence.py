"""What is kept of a job's process that died and should not have: the same bundle as of a worker."""

import secrets
from typing import Literal

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Autopsy
from lmx_supervisor.core.exit_reason import ExitObservation, classify

JobKind = Literal["download", "probe", "quantize"]

_ID_BYTES = 4


def job_autopsy(kind: JobKind, model_id: str, seen: ExitObservation, uptime_seconds: float) -> Autopsy:
    """The autopsy of a job. Its id has the form that the archive knows: bundles of other names are neither shown nor pruned."""
    return Autopsy(
        crash_id=f"{kind}{secrets.token_hex(_ID_BYTES)}-1",
        model_id=model_id,
        backend=kind,
        backend_version=None,
        pid=None,
        state=WorkerState.BUSY,
        verdict=classify(seen, state=WorkerState.BUSY, cause=None),
        observation=seen,
        uptime_seconds=uptime_seconds,
        spec=None,
        facts=None,
        story=(),
        memory_curve=(),
        requests=(),
    )
