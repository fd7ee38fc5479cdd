"""One bound for the bodies of all requests together: each may be large, but not all of them at one time.

Bytes count from their arrival to the end of the answer, because that is how long the prompt in them is kept (a request whose
worker dies is sent again). Without this bound, as many clients as there are connections could each have the largest body held.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.service import Service, TurnedAway
from lmx_supervisor.gateway.problem import CLOSE, Problem


class BoundHeldBodies:
    """Middleware: the request whose body passes `server.held_bodies_bytes_max` for all of them is refused with 503."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, counting what arrives. `receive` raises `Problem`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own_bytes = 0

        async def receive_counted() -> Message:
            nonlocal own_bytes
            message = await receive()
            arrived_bytes = len(message.get("body", b""))
            own_bytes += arrived_bytes
            self._held_bytes += arrived_bytes
            bytes_max = self._service.config.server.held_bodies_bytes_max
            if arrived_bytes and self._held_bytes > bytes_max:
                self._service.note_turned_away(TurnedAway.HELD_BODIES)
                text = f"The requests under way hold {bytes_max} bytes already; try again shortly, or send less."
                raise Problem(ErrorCode.OVERLOADED, text, headers=CLOSE)
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._held_bytes -= own_bytes
