"""The events of each open request on their way from worker to HTTP writer, and the credit that bounds them.

The worker may be ahead of the writer by the granted frames and bytes and no more. Credit is re-granted when half of it was
consumed by the writer, not by the loop, so a client that does not read costs a bounded buffer and then its own generation's
pause.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lmx_protocol import limits
from lmx_protocol.credit import is_output, output_bytes
from lmx_protocol.messages import AnyRequestEvent, Credit
from lmx_supervisor.core.ledger import is_terminal


class CreditExceededError(Exception):
    """A worker sent more than it was allowed to."""


class AnswerWatch(Protocol):
    """Told what happens to one request, at the moment it happens. Called for every event: it must be cheap and not raise."""

    def leased(self) -> None:
        """The request was sent to a worker; again, when the first one died."""

    def delivered(self, event: AnyRequestEvent) -> None:
        """An event came from the worker, or from the core."""

    def cancelled(self) -> None:
        """The client does not want the answer any more; the terminal event is still to come."""


class Unwatched:
    """For answers that nobody measures."""

    def leased(self) -> None:
        """Nothing."""

    def delivered(self, event: AnyRequestEvent) -> None:
        """Nothing."""

    def cancelled(self) -> None:
        """Nothing."""


UNWATCHED = Unwatched()


class OpenAnswer:
    """One request's events, bounded by credit; satisfies `core.service.Answer`."""

    def __init__(
        self,
        request_id: str,
        *,
        on_cancel: Callable[[str], None],
        on_credit: Callable[[Credit], None],
        watch: AnswerWatch = UNWATCHED,
    ) -> None:
        self._request_id = request_id
        self._watch = watch
        self._on_cancel = on_cancel
        self._on_credit = on_credit
        self._events: deque[AnyRequestEvent] = deque()
        self._arrived = asyncio.Event()
        self._in_hand_bytes: int | None = None
        """What the output that is being written cost; None when nothing is."""
        self._ended = False
        self._frames_left = 0
        self._bytes_left = 0
        self._frames_consumed = 0
        self._bytes_consumed = 0

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._request_id

    @property
    def ended(self) -> bool:
        """Whether the terminal event has arrived here (it may not have been read yet)."""
        return self._ended

    async def next_event(self) -> AnyRequestEvent:
        """The next event; the one before counts as written from now on."""
        self._consume()
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        self._in_hand_bytes = output_bytes(event) if is_output(event) else None
        return event

    def cancel(self) -> None:
        """Stop the generation; its terminal event still arrives."""
        if not self._ended:
            self._watch.cancelled()
            self._on_cancel(self._request_id)

    def leased(self, frames: int, byte_count: int) -> None:
        """The request was sent to a worker (again) with this much credit."""
        self._watch.leased()
        self._frames_left, self._bytes_left = frames, byte_count
        self._frames_consumed = self._bytes_consumed = 0

    def deliver(self, event: AnyRequestEvent) -> None:
        """Take in an event from the core. Raises `CreditExceededError` when the worker sent more output than it may."""
        if is_output(event):
            self._frames_left -= 1
            self._bytes_left -= output_bytes(event)
            # One event may overshoot the bytes: the worker cannot split a token.
            if self._frames_left < 0 or self._bytes_left < -limits.CREDIT_BYTES:
                raise CreditExceededError(f"request {self._request_id} was sent more output than its credit allows")
        self._watch.delivered(event)
        self._ended = self._ended or is_terminal(event)
        self._events.append(event)
        self._arrived.set()

    def _consume(self) -> None:
        if self._in_hand_bytes is None:
            return
        self._frames_consumed += 1
        self._bytes_consumed += self._in_hand_bytes
        self._in_hand_bytes = None
        half_used = self._frames_consumed * 2 >= limits.CREDIT_FRAMES or self._bytes_consumed * 2 >= limits.CREDIT_BYTES
        if half_used and not self._ended:
            self._frames_left += self._frames_consumed
            self._bytes_left += self._bytes_consumed
            self._on_credit(Credit(request_id=self._request_id, frames=self._frames_consumed, bytes=self._bytes_consumed))
            self._frames_consumed = self._bytes_consumed = 0
