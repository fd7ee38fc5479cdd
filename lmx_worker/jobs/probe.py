"""A probe: a backend opens a model as far as it can without the weights, and says what it found or what is wrong."""

import resource
import sys

from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobProbed, ProbeModel
from lmx_worker.backends.base import LoadError
from lmx_worker.backends.probes import prober_of
from lmx_worker.backends.registry import create_backend
from lmx_worker.jobs.refusal import JobRefusal
from lmx_worker.jobs.tally import PhaseTally

_OUTRUN_FACTOR = 2


def probe_model(work: ProbeModel, phases: PhaseTally) -> JobProbed:
    """Do it. Raises `JobRefusal`, with NOT_SUPPORTED when the backend itself does not work here, whatever the model."""
    if sys.platform == "linux":
        # For what outruns the beat by which the supervisor watches: private memory that is not backed by a file.
        most = _OUTRUN_FACTOR * work.memory_bytes_max
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    phases.enter("importing")
    try:
        version = create_backend(work.backend).import_libraries()
    except (KeyError, ImportError) as error:
        text = f"backend {work.backend} does not work in this installation: {error}"
        raise JobRefusal(ErrorCode.NOT_SUPPORTED, text) from error
    phases.enter("opening")
    try:
        found = prober_of(work.backend)(work.spec)
    except LoadError as error:
        raise JobRefusal(error.code, str(error)) from error
    except MemoryError as error:
        text = f"opening it takes more than {work.memory_bytes_max} bytes of memory"
        raise JobRefusal(ErrorCode.INSUFFICIENT_MEMORY, text) from error
    return JobProbed(
        backend_version=version,
        architecture=found.architecture,
        train_context_length=found.train_context_length,
        vocabulary_size=found.vocabulary_size,
    )
