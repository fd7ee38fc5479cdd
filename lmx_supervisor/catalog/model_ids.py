"""What a model may be called, and what a wrong name was probably meant to be. Pure."""

import difflib
import re
from collections.abc import Iterable

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal

_REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SUGGESTIONS_MAX = 3
_SHOWN_CHARACTERS_MAX = 80


def check_model_id(model_id: str) -> None:
    """Refuse an id that could not be a name, or that would lead out of the models directory.

    Raises:
        Refusal: INVALID_VALUE with param `model_id`.
    """
    problem = _problem(model_id)
    if problem:
        shown = model_id[:_SHOWN_CHARACTERS_MAX]
        raise Refusal(ErrorCode.INVALID_VALUE, f"Model id {shown!r} {problem}.", param="model_id")


def is_repository_id(model_id: str) -> bool:
    """Whether this could be `owner/name` on a model hub."""
    return _REPOSITORY_ID.fullmatch(model_id) is not None and _problem(model_id) is None


def unknown_model(model_id: str, known: Iterable[str], where_to_put_it: str) -> Refusal:
    """The refusal for a valid id that is not in the catalog, with the nearest ids that are.

    An id of the form `owner/name` could be fetched from a model hub, so it is told that downloads are off.
    """
    close = difflib.get_close_matches(model_id, sorted(known), n=_SUGGESTIONS_MAX)
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    how_to = f"Put its files into {where_to_put_it}, or load it with the path of a file or directory on this machine."
    if _REPOSITORY_ID.fullmatch(model_id):
        message = f"Model '{model_id}' is not on this machine and downloads are disabled.{hint} {how_to}"
        return Refusal(ErrorCode.DOWNLOADS_DISABLED, message, param="model_id")
    return Refusal(ErrorCode.MODEL_NOT_FOUND, f"Model '{model_id}' is not on this machine.{hint} {how_to}", param="model_id")


def _problem(model_id: str) -> str | None:
    if not model_id.strip():
        return "is empty"
    if len(model_id) > limits.MODEL_ID_CHARACTERS_MAX:
        return f"has more than {limits.MODEL_ID_CHARACTERS_MAX} characters"
    if not model_id.isprintable() or "\\" in model_id:
        return "must not hold control characters or backslashes"
    if model_id.startswith("/"):
        return "must not start with '/'; to load a file by its path, give the path beside an id of your choice"
    if any(part in ("", ".", "..") for part in model_id.split("/")):
        return "must not have '..', '.' or nothing between slashes"
    return None
