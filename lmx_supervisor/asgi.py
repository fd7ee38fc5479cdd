"""`hypercorn lmx_supervisor.asgi:app`: the same service under somebody else's ASGI server; it starts in the ASGI lifespan.

That server owns the listening socket, the signals and the HTTP limits of the edge; everything behind it is the same.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from lmx_supervisor.config.home import home_directory
from lmx_supervisor.config.load import load_config
from lmx_supervisor.config.redact import secret_values
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.host import running_service
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.observe.logs import setup_logging
from lmx_supervisor.runtime.instance_lock import InstanceLock


class LazyApp:
    """The gateway, created when the lifespan starts."""

    def __init__(self) -> None:
        self._app: Starlette | None = None
        self._lifespan = Starlette(lifespan=self._run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        assert self._app is not None, "the ASGI server did not run the lifespan"
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _run(self, _: Starlette) -> AsyncIterator[None]:
        home = home_directory()
        home.mkdir(parents=True, exist_ok=True)
        loaded = load_config(file=None, flags={}, environ=os.environ, home=home)
        config = loaded.config
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(InstanceLock(home).close)
            redaction = Redaction(secret_values(config))
            cleanup.callback(setup_logging(config.logging, redaction))
            async with running_service(loaded, home, {}, redaction) as running:
                self._app = create_app(running.service)
                loading = asyncio.create_task(running.service.load_at_start(config.models.auto_load))
                try:
                    yield
                finally:
                    loading.cancel()


app = LazyApp()
