"""The routes that bring models onto this machine and take them off it: download, its progress, its cancel, confirm, delete.

A download belongs to the service: a client that leaves stops waiting and changes nothing.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.downloads.orders import DownloadOrder, DownloadView, ModelOnItsWay
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.model_bodies import ModelId, refuse_unsafe_id
from lmx_supervisor.gateway.body import decode_field, read_json
from lmx_supervisor.gateway.disconnect import DetachedWork
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response

CONFIRM_URL = "/admin/models/load/confirm"
ACCEPTED = 202

Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
Patterns = Annotated[tuple[Pattern, ...], Meta(max_length=limits.DOWNLOAD_PATTERNS_MAX)]

_ABSENT = msgspec.Raw(b"null")
_BINARY_UNITS = ((1024**4, "TB"), (1024**3, "GB"), (1024**2, "MB"), (1024, "KB"))


class DownloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """What to fetch; null means absent, unknown fields are ignored."""

    repo_id: ModelId
    revision: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    allow_patterns: msgspec.Raw = _ABSENT
    ignore_patterns: msgspec.Raw = _ABSENT


class ConfirmBody(msgspec.Struct, frozen=True, kw_only=True):
    """The token that a load answered with."""

    confirmation_token: Annotated[str, Meta(min_length=1, max_length=256)]


class DownloadsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which downloads are listed."""

    include_inactive: bool = False
    """Those that are over, too."""


_download_decoder = msgspec.json.Decoder(DownloadBody)
_confirm_decoder = msgspec.json.Decoder(ConfirmBody)
_patterns_decoder = msgspec.json.Decoder(Patterns | None)


class AdminDownloads:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._detached = DetachedWork()

    async def start(self, request: Request) -> Response:
        """Fetch a repository of the hub. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _download_decoder, self._service.config.server)
        refuse_unsafe_id(body.repo_id, param="repo_id")
        note(request.scope, model=body.repo_id)
        order = DownloadOrder(
            repo_id=body.repo_id,
            revision=body.revision,
            allow_patterns=_patterns("allow_patterns", body.allow_patterns),
            ignore_patterns=_patterns("ignore_patterns", body.ignore_patterns),
        )
        view = await self._detached.wait(self._service.download(order), request.receive)
        return json_response(
            {
                "download_id": view.download_id,
                "repo_id": view.repo_id,
                "estimated_size_bytes": view.total_bytes,
                "status": view.status,
            }
        )

    async def index(self, request: Request) -> Response:
        """The downloads that are not over; with `?include_inactive=true` all that are remembered. Raises `Problem` (400)."""
        wanted = request.query_params.get("include_inactive") or "false"
        try:
            everything = msgspec.convert({"include_inactive": wanted}, DownloadsQuery, strict=False).include_inactive
        except msgspec.ValidationError:
            text = "include_inactive: expected true or false."
            raise Problem(ErrorCode.INVALID_VALUE, text, param="include_inactive") from None
        views = [view for view in self._service.downloads() if everything or view.completed_at is None]
        return json_response({"downloads": views, "count": len(views), "include_inactive": everything})

    async def progress(self, request: Request) -> Response:
        """How far one is. Raises `Refusal` (404)."""
        return json_response(self._service.find_download(request.path_params["download_id"]))

    async def cancel(self, request: Request) -> Response:
        """End one, and throw away what has come of it; answers when its process is gone. Raises `Refusal` (404)."""
        download_id = request.path_params["download_id"]
        before = self._service.find_download(download_id)
        view = await self._detached.wait(self._service.cancel_download(download_id), request.receive)
        return json_response({**_as_dict(view), "cancelled": before.completed_at is None and view.status == "cancelled"})

    async def confirm(self, request: Request) -> Response:
        """Start the download that a load offered. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _confirm_decoder, self._service.config.server)
        answer = await self._detached.wait(self._service.confirm_load(body.confirmation_token), request.receive)
        note(request.scope, model=answer.model_id)
        return on_its_way_response(answer)

    async def delete(self, request: Request) -> Response:
        """Delete a model from this machine. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        model_id = request.path_params["model_id"]
        refuse_unsafe_id(model_id)
        note(request.scope, model=model_id)
        deletion = await self._detached.wait(self._service.delete(model_id), request.receive)
        return json_response({"success": True, "model_id": deletion.model_id, "freed_bytes": deletion.freed_bytes})


def on_its_way_response(answer: ModelOnItsWay) -> Response:
    """202: the model of a load has to be fetched first, or is being fetched."""
    size_bytes, download_id = answer.estimated_size_bytes, answer.download_id
    return json_response(
        {
            "status": answer.status,
            "model_id": answer.model_id,
            "estimated_size_bytes": size_bytes,
            "estimated_size_human": None if size_bytes is None else _human(size_bytes),
            "confirmation_token": answer.confirmation_token,
            "download_id": download_id,
            "message": answer.message,
            "confirm_url": CONFIRM_URL if answer.confirmation_token is not None else None,
            "progress_url": f"/admin/models/download/{download_id}/progress" if download_id is not None else None,
        },
        status=ACCEPTED,
    )


def _patterns(name: str, raw: msgspec.Raw) -> tuple[str, ...]:
    return decode_field(name, raw, _patterns_decoder) or ()


def _as_dict(view: DownloadView) -> dict[str, Any]:
    return msgspec.structs.asdict(view)


def _human(size_bytes: int) -> str:
    for unit_bytes, unit in _BINARY_UNITS:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} B"
