"""An autopsy to write bundles of."""

import signal
from typing import Any

from lmx_protocol.messages import ModelSpec, Sampling
from lmx_protocol.states import ModelFormat, WorkerState
from lmx_supervisor.core.actions import Autopsy, RequestTrace
from lmx_supervisor.core.exit_reason import ExitObservation, ExitReason, Verdict

STACK = "Fatal Python error: Segmentation fault\n"


def autopsy(number: int = 1, **changes: Any) -> Autopsy:
    """A segmentation fault with one request in flight, but for the changes."""
    plain: dict[str, Any] = {
        "crash_id": f"0a1b2c3d-{number}",
        "model_id": "org/tiny",
        "backend": "llamacpp",
        "backend_version": "b1",
        "pid": 42,
        "state": WorkerState.BUSY,
        "verdict": Verdict(ExitReason.NATIVE_CRASH, "native code crashed (SIGSEGV)", f"0a1b2c3d-{number}"),
        "observation": ExitObservation(signal_number=signal.SIGSEGV, stderr_tail="last words\n", crash_head=STACK),
        "uptime_seconds": 12.5,
        "spec": ModelSpec(model_id="org/tiny", path="/models/tiny.gguf", format=ModelFormat.GGUF),
        "facts": None,
        "story": ((2.0, "ready → busy: leased a request"),),
        "memory_curve": ((1.0, 1000),),
        "requests": (
            RequestTrace(
                request_id="req-1",
                prompt_characters=40,
                max_tokens=64,
                tokens_delivered=5,
                replays=0,
                on_trial=False,
                sampling=Sampling(temperature=0.5),
            ),
        ),
    }
    return Autopsy(**(plain | changes))
