"""The bodies of POST /admin/models/load, /unload and /admin/quarantine/clear, and a load's body as the order it means. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import BACKEND_NAMES
from lmx_supervisor.core.load_profile import LoadProfile, ProfileError, read_profile
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.problem import Problem

ModelId = Annotated[str, Meta(min_length=1, max_length=limits.MODEL_ID_CHARACTERS_MAX)]
FilePath = Annotated[str, Meta(min_length=1, max_length=limits.FILE_PATH_CHARACTERS_MAX)]

_ABSENT = Raw(b"null")
_OVERRIDES = "performance_overrides"


class LoadBody(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks for; null means absent, unknown fields are ignored."""

    model_id: ModelId
    path: FilePath | None = None
    backend: str | None = None
    max_context_length: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS_MAX)] | None = None
    auto_download: bool | None = None
    allow_unsupported_runtime: bool | None = None
    keep_alive_sec: Annotated[int, Meta(ge=0, le=limits.KEEP_ALIVE_SECONDS_MAX)] | None = None
    performance_overrides: Raw = _ABSENT


class UnloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to unload."""

    model_id: ModelId


class ClearBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to release from quarantine; an explicit null means all of them."""

    model_id: ModelId | None


load_decoder = msgspec.json.Decoder(LoadBody)
unload_decoder = msgspec.json.Decoder(UnloadBody)
clear_decoder = msgspec.json.Decoder(ClearBody)
_settings_decoder: msgspec.json.Decoder[dict[str, Any] | None] = msgspec.json.Decoder(dict[str, Any] | None)


def to_load_order(body: LoadBody) -> LoadOrder:
    """The order that `body` means. Raises `Problem` (400) for what cannot be meant or cannot be done yet."""
    refuse_unsafe_id(body.model_id)
    if body.path is not None and "\0" in body.path:
        raise Problem(ErrorCode.INVALID_VALUE, "path: it contains a NUL character.", param="path")
    if body.backend is not None and body.backend not in BACKEND_NAMES:
        allowed = ", ".join(BACKEND_NAMES)
        raise Problem(ErrorCode.INVALID_VALUE, f"backend: {body.backend!r} is not one of {allowed}.", param="backend")
    return LoadOrder(
        model_id=body.model_id,
        path=body.path,
        backend=None if body.backend is None else BACKEND_NAMES[body.backend].value,
        profile=_profile(body),
        allow_unsupported_runtime=bool(body.allow_unsupported_runtime),
        keep_alive_seconds=body.keep_alive_sec,
        auto_download=bool(body.auto_download),
    )


def refuse_unsafe_id(model_id: str, *, param: str = "model_id") -> None:
    """Raise `Problem` (400 `invalid_value`) for an id that is no name but a path out of the models directory."""
    if ".." in model_id or model_id.startswith("/") or not model_id.isprintable():
        message = f"{param}: an id is a name such as 'org/model': no '..', no leading '/', printable characters only."
        raise Problem(ErrorCode.INVALID_VALUE, message, param=param)


def read_overrides(settings: dict[str, Any], at: str) -> LoadProfile:
    """A table of settings, called `at`, as one layer of a load's profile. Raises `Problem` (400) that names the setting."""
    try:
        return read_profile(settings, at)
    except ProfileError as error:
        raise Problem(error.code, str(error), param=error.param) from None


def _profile(body: LoadBody) -> LoadProfile:
    settings = decode_field(_OVERRIDES, body.performance_overrides, _settings_decoder) or {}
    profile = read_overrides(settings, _OVERRIDES)
    if body.max_context_length is None:
        return profile
    if profile.context_length not in (None, body.max_context_length):
        message = f"max_context_length: {_OVERRIDES} sets another context length; send one of them."
        raise Problem(ErrorCode.INVALID_VALUE, message, param="max_context_length")
    return msgspec.structs.replace(profile, context_length=body.max_context_length)
