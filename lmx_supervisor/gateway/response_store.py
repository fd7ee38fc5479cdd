"""Responses that were made and can be asked for or gone on from, and those that are being made: bounded, in memory.

To a caller with a name those of others are not there. The oldest are forgotten when there are too many or they take too much; a
restart of the service forgets all of them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lmx_protocol import limits
from lmx_protocol.messages import Message
from lmx_supervisor.gateway.callers import Caller, Owner


class ResponseInProgress(Protocol):
    """A response that is being made."""

    def response(self) -> dict[str, Any]:
        """Its object at this moment."""

    def cancel(self) -> None:
        """Mark it as cancelled."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that has ended."""

    response_id: str
    owner: Owner
    body: bytes
    """Its object as JSON."""
    items: bytes
    """Its own input as a JSON list of items."""
    turns: tuple[Message, ...]
    """The conversation up to and with its answer, without instructions."""

    @property
    def size_bytes(self) -> int:
        """What it takes, near enough to bound it."""
        return len(self.body) + len(self.items) + sum(_size_bytes(turn) for turn in self.turns)


class ResponseStore:
    """Responses by id."""

    def __init__(
        self, *, entries_max: int = limits.STORED_RESPONSES_MAX, bytes_max: int = limits.STORED_RESPONSES_BYTES_MAX
    ) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._size_bytes = 0
        self._in_progress: dict[str, tuple[Owner, ResponseInProgress]] = {}

    @property
    def size_bytes(self) -> int:
        """What all of them take."""
        return self._size_bytes

    def begin(self, response_id: str, owner: Owner, response: ResponseInProgress) -> None:
        """A response is being made; bounded by the connections that wait for one."""
        self._in_progress[response_id] = owner, response

    def end(self, response_id: str) -> None:
        """It is not being made any more."""
        del self._in_progress[response_id]

    def in_progress(self, response_id: str, caller: Caller) -> ResponseInProgress | None:
        """A response that is being made, if the caller may see it."""
        owner, response = self._in_progress.get(response_id, (None, None))
        return response if caller.may_touch(owner) else None

    def keep(self, response: StoredResponse) -> None:
        """Remember a response, and forget the oldest ones that it leaves no room for. One that is too large is not kept."""
        if response.size_bytes > self._bytes_max:
            return
        self._stored[response.response_id] = response
        self._size_bytes += response.size_bytes
        while len(self._stored) > self._entries_max or self._size_bytes > self._bytes_max:
            _, forgotten = self._stored.popitem(last=False)
            self._size_bytes -= forgotten.size_bytes

    def get(self, response_id: str, caller: Caller) -> StoredResponse | None:
        """A response that has ended and is still remembered, if the caller may see it."""
        stored = self._stored.get(response_id)
        return stored if stored is not None and caller.may_touch(stored.owner) else None

    def delete(self, response_id: str, caller: Caller) -> bool:
        """Forget a response; False when it is not there, or not the caller's."""
        forgotten = self.get(response_id, caller)
        if forgotten is None:
            return False
        del self._stored[response_id]
        self._size_bytes -= forgotten.size_bytes
        return True


def _size_bytes(turn: Message) -> int:
    texts: Sequence[str] = [turn.content, turn.reasoning, *(call.arguments for call in turn.tool_calls)]
    return sum(len(text.encode(errors="replace")) for text in texts)
