"""Opening a scripted model without pretending to load it. Its `probe` faults happen here."""

from pathlib import Path

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_worker.backends.base import LoadError
from lmx_worker.backends.probes import ProbedModel
from lmx_worker.backends.scripted.process_faults import commit
from lmx_worker.backends.scripted.script import read_script


def probe(spec: ModelSpec) -> ProbedModel:
    """Read the script. Raises `LoadError`."""
    path = Path(spec.path)
    try:
        script = read_script(path)
    except FileNotFoundError as error:
        raise LoadError(ErrorCode.MODEL_NOT_FOUND, f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{path} is no scripted model: {error}") from error
    for fault in script.faults:
        if fault.when == "probe":
            commit(fault)
    return ProbedModel(architecture="script", train_context_length=script.context_length, vocabulary_size=0)
