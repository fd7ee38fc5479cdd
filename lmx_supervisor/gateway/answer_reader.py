"""Reading the answers to one client's request while watching for it to leave or to cancel, and abandoned answers to their end.

The service frees a request's place when its terminal event was read, so no answer is ever just dropped.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from lmx_protocol import limits
from lmx_protocol.messages import AnyRequestEvent, Terminal
from lmx_supervisor.core.service import Answer
from lmx_supervisor.gateway.callers import Caller, Owner
from lmx_supervisor.gateway.disconnect import ClientGoneError
from lmx_supervisor.gateway.problem import EdgeCode, Problem

logger = logging.getLogger("lmx.http")


class AnswerReader:
    """The events of the answers to one request of a connected client, merged as they come. Always `close` it.

    An answer's number is its choice. Each is paced on its own: it may run ahead by its own credit and no more.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        open_answers: "OpenAnswers",
        *,
        until_gone: Awaitable[None],
        ids: Iterable[str] = (),
        owner: Owner = None,
    ) -> None:
        """`until_gone` ends when the client has left; `ids` are names of the request beside those of its answers."""
        self.owner = owner
        self._answers = answers
        self._open_answers = open_answers
        self._unended = set(range(len(answers)))
        self._due = list(range(len(answers)))
        """The choices whose next event can be asked for: their last one was written out."""
        self._coming: dict[int, asyncio.Task[AnyRequestEvent]] = {}
        """The oldest first, so that no choice is passed over for ever."""
        self._gone = asyncio.ensure_future(until_gone)
        self._cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ids = {*ids, *(answer.request_id for answer in answers)}
        open_answers.add(self._ids, self)

    async def next_event(self, *, wait_seconds: float | None) -> tuple[int, AnyRequestEvent] | None:
        """The next event and its choice, or None when none came within `wait_seconds`.

        Raises `ClientGoneError`, and `Problem` when the request was cancelled by its id. Asking says that the event before was
        written out (see `Answer`); asking again after None does not say so twice, because the wait that is under way goes on.
        Not to be asked when every choice has ended.
        """
        for choice in self._due:
            self._coming[choice] = asyncio.create_task(self._answers[choice].next_event())
        self._due.clear()
        awaited: list[asyncio.Future[Any]] = [*self._coming.values(), self._gone, self._cancelled]
        await asyncio.wait(awaited, timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            raise ClientGoneError
        if self._cancelled.done():
            raise Problem(EdgeCode.REQUEST_CANCELLED, "The request was cancelled by its id.")
        arrived = next((choice for choice, coming in self._coming.items() if coming.done()), None)
        return self._take(arrived) if arrived is not None else None

    def _take(self, choice: int) -> tuple[int, AnyRequestEvent]:
        came = self._coming.pop(choice)
        self._unended.discard(choice)
        event = came.result()
        if not isinstance(event, Terminal):
            self._unended.add(choice)
            self._due.append(choice)
        return choice, event

    def cancel(self) -> None:
        """Somebody asks for the end of this request: whoever reads it is told, and closes it."""
        if not self._cancelled.done():
            self._cancelled.set_result(None)

    def close(self) -> None:
        """Stop watching. Answers that have not ended are cancelled at once and read to their end in the background."""
        self._gone.cancel()
        self._open_answers.remove(self._ids, self)
        for choice in self._unended:
            self._answers[choice].cancel()
            self._open_answers.abandon(self._answers[choice], self._coming.get(choice))


class OpenAnswers:
    """The answers of one app that have not ended: those with a reader, by all their ids, and cancelled ones on the way to their
    terminal event, each held for a bounded time."""

    def __init__(self) -> None:
        self._readers: dict[str, set[AnswerReader]] = {}
        self._draining: set[asyncio.Task[None]] = set()

    def add(self, ids: Iterable[str], reader: AnswerReader) -> None:
        """From now on the reader's request can be cancelled by each of the ids. Clients choose ids: several may share one."""
        for request_id in ids:
            self._readers.setdefault(request_id, set()).add(reader)

    def remove(self, ids: Iterable[str], reader: AnswerReader) -> None:
        """Undo `add`."""
        for request_id in ids:
            readers = self._readers[request_id]
            readers.discard(reader)
            if not readers:
                del self._readers[request_id]

    def cancel(self, request_id: str, caller: Caller) -> bool:
        """End every request of that id that the caller may end, wherever it is; False when there is none."""
        readers = [reader for reader in self._readers.get(request_id, ()) if caller.may_touch(reader.owner)]
        for reader in readers:
            reader.cancel()
        return bool(readers)

    def abandon(self, answer: Answer, coming: asyncio.Task[AnyRequestEvent] | None) -> None:
        """Read a cancelled answer to its end; `coming` is a `next_event` call under way."""
        draining = asyncio.create_task(_drain(answer, coming))
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)


async def _drain(answer: Answer, coming: asyncio.Task[AnyRequestEvent] | None) -> None:
    try:
        async with asyncio.timeout(limits.PROGRESS_STALL_SECONDS):
            event = await (coming or answer.next_event())
            while not isinstance(event, Terminal):
                event = await answer.next_event()
    except TimeoutError:
        logger.error("a cancelled answer did not end", extra={"generation_id": answer.request_id})
    except Exception:
        logger.exception("a cancelled answer broke", extra={"generation_id": answer.request_id})
