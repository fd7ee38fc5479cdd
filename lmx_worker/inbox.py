"""Commands on their way to the engine thread, which takes them between two steps."""

import threading
from collections import deque
from dataclasses import dataclass

from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.limits import INBOX_COMMANDS_MAX
from lmx_protocol.messages import Begin, Cancel, Credit, Grant, Load, Shutdown
from lmx_worker.backends.base import AnyPrepared, RequestError


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """A request could not be templated or tokenized."""

    request_id: str
    error: RequestError


@dataclass(frozen=True, slots=True)
class Counted:
    """A request asked only how long a prompt is, and this is the answer."""

    request_id: str
    tokens: int


Command = Load | Begin | Cancel | Credit | Grant | Shutdown | AnyPrepared | PrepareFailed | Counted


class Inbox:
    """A bounded queue that the engine empties at once, or waits on when it has nothing to compute."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._arrived = threading.Condition()

    def put(self, command: Command) -> None:
        """Queue a command. Raises `ProtocolViolation` when the supervisor has sent more than any honest one would."""
        with self._arrived:
            if len(self._commands) >= INBOX_COMMANDS_MAX:
                raise ProtocolViolation(f"more than {INBOX_COMMANDS_MAX} commands wait for the engine")
            self._commands.append(command)
            self._arrived.notify()

    def take(self, wait_seconds: float | None) -> list[Command]:
        """All commands, oldest first; waits up to `wait_seconds` (None: until one comes) when there is none."""
        with self._arrived:
            if not self._commands and wait_seconds != 0:
                self._arrived.wait_for(lambda: bool(self._commands), wait_seconds)
            commands = list(self._commands)
            self._commands.clear()
        return commands
