"""GET /admin/workers/{id}/logs: what a model's workers print, as server-sent events that can be resumed.

Each event is a few whole lines; its `id` names the incarnation and the place in its output. With `?follow=true` the answer goes
on with what is printed, also by the worker that takes a dead one's place.
"""

import re

from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.records import OutputMark, OutputPart, OutputReader
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.events import LAST_ID_PARAM, follow_of, last_id_of
from lmx_supervisor.gateway.frame_stream import FrameSource, FrameStream, event_frame
from lmx_supervisor.gateway.problem import Problem

_MARK = re.compile(r"([0-9A-Za-z._-]{1,64}):(\d{1,18})", re.ASCII)


class AdminWorkerLogs:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def stream(self, request: Request) -> ASGIApp:
        """Read from the oldest line that is kept, or from a mark. Raises `Problem` (400, 404), `Refusal` (503)."""
        model_id = request.path_params["model_id"]
        after = _mark(last_id_of(request))
        follow = follow_of(request.query_params, default=False)

        def open_source() -> FrameSource:
            reader = self._service.records.worker_output(model_id, after)
            if reader is None:
                message = f"No worker of '{model_id}' has run lately; GET /admin/workers lists those there are."
                raise Problem(ErrorCode.MODEL_NOT_FOUND, message, param="model_id")
            return _OutputFrames(reader)

        return FrameStream(self._service, open_source, follow=follow)


def _mark(text: str | None) -> OutputMark | None:
    if not text:
        return None
    match = _MARK.fullmatch(text)
    if match is None:
        raise Problem(ErrorCode.INVALID_VALUE, "The id of a piece of output looks like 0a1b2c3d-1:4096.", param=LAST_ID_PARAM)
    return OutputMark(match[1], int(match[2]))


class _OutputFrames:
    """The output of one model's workers."""

    def __init__(self, reader: OutputReader) -> None:
        self._reader = reader

    def read(self) -> bytes:
        return b"".join(map(_frames, self._reader.read()))

    async def wait(self, seconds: float) -> None:
        await self._reader.wait(seconds)

    @property
    def ended(self) -> bool:
        return self._reader.ended

    def close(self) -> None:
        self._reader.close()


def _frames(part: OutputPart) -> bytes:
    gap = b""
    if part.lost_bytes != 0:
        gap = event_frame("gap", {"type": "gap", "incarnation": part.incarnation, "lost_bytes": part.lost_bytes}, None)
    if not part.lines:
        return gap
    data = {"type": "output", "incarnation": part.incarnation, "lines": part.lines}
    return gap + event_frame("output", data, f"{part.incarnation}:{part.end}")
