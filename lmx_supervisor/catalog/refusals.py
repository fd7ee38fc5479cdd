"""The catalog's refusals that several of its modules give, so that one fault reads the same wherever it is found."""

import errno
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal


def incomplete(path: Path, what: str) -> Refusal:
    """The model's files are not all there, or not whole: `what` names them."""
    return Refusal(ErrorCode.MODEL_INCOMPLETE, f"{path}: {what}. Copy or download the model again.", param="model_id")


def unknown_kind(path: Path, what: str) -> Refusal:
    """There is something, but nothing LMX can serve."""
    return Refusal(
        ErrorCode.MODEL_UNSUPPORTED_BACKEND,
        f"{path} is not a model LMX knows: {what}; expected a GGUF file, an MLX directory"
        " (config.json and *.safetensors) or a *.script.yaml file.",
        param="model_id",
    )


def no_such_path(path: Path, why: str = "no such file or directory") -> Refusal:
    """The path leads nowhere, or LMX may not go there."""
    return Refusal(ErrorCode.MODEL_NOT_FOUND, f"{path}: {why}. Give the path of a model on this machine.", param="path")


def unreadable(path: Path, error: OSError) -> Refusal:
    """The system does not let LMX read a path. One that has run out of something says nothing about the model."""
    if is_exhausted(error):
        what = f"{path} cannot be read now ({error.strerror}): the system has nothing to spare."
        message = f"{what} Try again later, or raise its limits."
        return Refusal(ErrorCode.OVERLOADED, message, retry_after_seconds=limits.DISK_RETRY_AFTER_SECONDS)
    return no_such_path(path, f"cannot be read ({error.strerror})")


def is_exhausted(error: OSError) -> bool:
    """Whether the system had no descriptors or memory to spare, whatever was asked of it."""
    return error.errno in _EXHAUSTED


_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
