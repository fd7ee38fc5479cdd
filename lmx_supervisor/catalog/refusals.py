"""The catalog's refusals that several of its modules give, so that one fault reads the same wherever it is found."""

from pathlib import Path

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
