"""What decides over a request's turn: whose it is, in which lane it waits, and how long its client waits."""

from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """How urgent a request is. A lane orders those who wait; it gives nobody a place beyond a limit."""

    INTERACTIVE = "interactive"
    """Somebody looks at the screen."""
    NORMAL = "normal"
    """Nothing was said."""
    THROUGHPUT = "throughput"
    """It may wait for the others, though not for ever."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client's request claims of the service."""

    client: str = ""
    """What the client calls itself, else its address."""
    key: str | None = None
    """The name of the key it came with, if that has one."""
    key_limit: int | None = None
    """How many requests of that key may run at once; None: as many as of anybody."""
    lane: Lane = Lane.NORMAL
    time_limit_seconds: float | None = None
    """From its arrival: the client does not want the answer any later. None: it did not say."""

    @property
    def share(self) -> str:
        """Who the fair share is of: the key, because nobody can invent one, else the client."""
        return f"key {self.key}" if self.key is not None else f"client {self.client}"


NO_CLAIM = Claim()
"""Of a request that says nothing about itself."""
