"""Waiting for the service while watching whether the client is still there."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

logger = logging.getLogger("lmx.http")

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has left. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def watched(receive: Receive) -> "asyncio.Task[None]":
    """A task that ends when the client leaves, for a reader of what is about to be begun for it. The body must have been read.

    Raises `ClientGoneError` when it has left already: after an overload most of those at the door have, and what is begun for
    them comes before what is asked by those who have not.
    """
    leaving = asyncio.create_task(until_disconnect(receive))
    # One turn, in which the task takes in what the connection has noticed by now.
    await asyncio.sleep(0)
    if leaving.done():
        raise ClientGoneError
    return leaving


class DetachedWork:
    """Work that belongs to the server, whoever asked for it: it goes on when the client that waits for it leaves.

    Bounded by the connections that can ask and by the service's own deadlines for what is asked.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def wait(self, work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
        """The result of `work`. Raises what it raises, and `ClientGoneError` when the client leaves first."""
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._forget)
        gone = asyncio.create_task(until_disconnect(receive))
        try:
            await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if running.done():
            return running.result()
        raise ClientGoneError

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("detached work ended with %r", error)


async def while_connected(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """The result of work that is only for the client that waits for it: it is cancelled when that one leaves.

    Raises what `work` raises, and `ClientGoneError`.
    """
    running = asyncio.create_task(work)
    gone = asyncio.create_task(until_disconnect(receive))
    try:
        await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
    finally:
        gone.cancel()
        running.cancel()
    await asyncio.wait((running,))
    if not running.cancelled() and (error := running.exception()) is not None:
        logger.debug("work for a client that left ended with %r", error)
    raise ClientGoneError
