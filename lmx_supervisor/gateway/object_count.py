"""How many objects the JSON of one request becomes, counted while they are made, and the end of it at `BODY_OBJECTS_MAX`.

msgspec makes a list to its end before it looks at the list's bound, and a body of 16 MiB has room for half a million messages,
content parts or tool calls: making them all would keep the loop from everybody else for a second. So everything that clients
send counts itself as it is made (`Inbound`), and the one too many ends the decoding there: what comes after it is never made.

What is counted is a request, not a call: fields that are kept raw are decoded later and one by one (`body.decode_field`), and a
bound for each of them alone would be none for all together. A request is a task, whose context no other one shares.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from lmx_protocol import limits


@dataclass(slots=True)
class _Count:
    """Of one request."""

    made: int = 0
    is_decoding: bool = False
    """Else what is made is our own, not the client's."""


_count: ContextVar[_Count | None] = ContextVar("objects_of_the_request", default=None)


@contextmanager
def counting(*, anew: bool) -> Iterator[None]:
    """What is decoded inside counts; `anew`, it is a request of its own, else more of the one before."""
    count = _count.get()
    if count is None or anew:
        count = _Count()
        _count.set(count)
    count.is_decoding = True
    try:
        yield
    finally:
        count.is_decoding = False


def count_one() -> None:
    """An object was made. Raises `ValueError` for one too many; msgspec adds where in the JSON that was."""
    count = _count.get()
    if count is None or not count.is_decoding:
        return
    count.made += 1
    if count.made > limits.BODY_OBJECTS_MAX:
        raise ValueError(f"up to here the request has {limits.BODY_OBJECTS_MAX} objects, and more are not allowed")
