"""Reading one `Answer` while watching for the client to leave, and reading abandoned answers to their end.

The service frees a request's place when its terminal event was read, so no answer is ever just dropped.
"""

import asyncio
import logging

from starlette.types import Receive

from lmx_protocol import limits
from lmx_protocol.messages import AnyRequestEvent, Terminal
from lmx_supervisor.core.service import Answer
from lmx_supervisor.gateway.disconnect import ClientGoneError, until_disconnect

logger = logging.getLogger("lmx.http")


class AnswerReader:
    """The events of one answer for one connected client. Always `close` it."""

    def __init__(self, answer: Answer, receive: Receive, abandoned: "AbandonedAnswers") -> None:
        self._answer = answer
        self._abandoned = abandoned
        self._next: asyncio.Task[AnyRequestEvent] | None = None
        self._gone = asyncio.create_task(until_disconnect(receive))
        self._ended = False

    async def next_event(self, *, wait_seconds: float | None) -> AnyRequestEvent | None:
        """The next event, or None when none came within `wait_seconds`. Raises `ClientGoneError`.

        Asking says that the event before was written out (see `Answer`); asking again after None does not say so twice, because
        the wait that is under way goes on.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._answer.next_event())
        await asyncio.wait((self._next, self._gone), timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            raise ClientGoneError
        if not self._next.done():
            return None
        finished, self._next = self._next, None
        self._ended = True
        event = finished.result()
        self._ended = isinstance(event, Terminal)
        return event

    def close(self) -> None:
        """Stop watching. An answer that has not ended is cancelled at once and read to its end in the background."""
        self._gone.cancel()
        if not self._ended:
            self._answer.cancel()
            self._abandoned.adopt(self._answer, self._next)


class AbandonedAnswers:
    """Cancelled answers on the way to their terminal event. One per app; each is held for a bounded time."""

    def __init__(self) -> None:
        self._draining: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._draining)

    def adopt(self, answer: Answer, pending: asyncio.Task[AnyRequestEvent] | None) -> None:
        """Read a cancelled answer to its end; `pending` is a `next_event` call under way."""
        draining = asyncio.create_task(_drain(answer, pending))
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)


async def _drain(answer: Answer, pending: asyncio.Task[AnyRequestEvent] | None) -> None:
    try:
        async with asyncio.timeout(limits.PROGRESS_STALL_SECONDS):
            event = await (pending or answer.next_event())
            while not isinstance(event, Terminal):
                event = await answer.next_event()
    except TimeoutError:
        logger.error("a cancelled answer did not end", extra={"generation_id": answer.request_id})
    except Exception:
        logger.exception("a cancelled answer broke", extra={"generation_id": answer.request_id})
