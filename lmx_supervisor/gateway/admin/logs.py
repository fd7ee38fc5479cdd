"""GET /admin/logs and below: where everything is written, and the journals' files as they are."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.records import JournalKind
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from lmx_supervisor.gateway.responses import json_response

_HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]


class AdminLogs:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def places(self, _: Request) -> Response:
        """Where the service writes what it has to say."""
        return json_response(self._service.records.log_places())

    async def sessions(self, _: Request) -> Response:
        """The session logs and the events beside them, the newest first."""
        return json_response(await self._service.records.journal_files(JournalKind.SESSIONS))

    async def updates(self, _: Request) -> Response:
        """The update logs, the newest first."""
        return json_response(await self._service.records.journal_files(JournalKind.UPDATES))

    async def session(self, request: Request) -> ASGIApp:
        """One file of the session logs. Raises `Problem` (400, 404)."""
        return await self._file(JournalKind.SESSIONS, request)

    async def update(self, request: Request) -> ASGIApp:
        """One update log. Raises `Problem` (400, 404)."""
        return await self._file(JournalKind.UPDATES, request)

    async def _file(self, kind: JournalKind, request: Request) -> ASGIApp:
        filename = request.path_params["filename"]
        if "/" in filename or "\\" in filename or filename.startswith("."):
            raise Problem(ErrorCode.INVALID_VALUE, "Invalid filename", param="filename")
        pieces = await self._service.records.journal_text(kind, filename)
        if pieces is None:
            message = f"Log file not found; GET /admin/logs/{kind} lists those there are."
            raise Problem(EdgeCode.NOT_FOUND, message, param="filename")
        return _Pieces(self._service, pieces)


class _Pieces:
    """An answer that is read from the disk while it is sent."""

    def __init__(self, service: Service, pieces: AsyncIterator[bytes]) -> None:
        self._service = service
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(message: Message) -> None:
            async with asyncio.timeout(self._service.config.server.slow_client_seconds):
                await send(message)

        try:
            await write({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async for piece in self._pieces:
                await write({"type": "http.response.body", "body": piece, "more_body": True})
            await write({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            note(scope, outcome="slow_client")
