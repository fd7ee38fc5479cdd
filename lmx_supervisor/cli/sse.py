"""Server-sent events, reading side: bytes to the text of each event's `data`. No I/O."""

from collections.abc import Iterable, Iterator

from lmx_supervisor.cli.failures import NoAnswer


def event_data(chunks: Iterable[bytes], *, line_bytes_max: int) -> Iterator[str]:
    """The `data` of each whole event, its lines joined by newlines; comments, other fields and a last half event are dropped.

    Raises:
        NoAnswer: one line is longer than `line_bytes_max`; what sends it is not an LMX server.
    """
    data: list[str] = []
    for line in _lines(chunks, line_bytes_max):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" ").decode(errors="replace"))


def _lines(chunks: Iterable[bytes], line_bytes_max: int) -> Iterator[bytes]:
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        *complete, rest = pending.split(b"\n")
        pending = bytearray(rest)
        for line in complete:
            yield bytes(line.removesuffix(b"\r"))
        if len(pending) > line_bytes_max:
            raise NoAnswer(f"the server sent a line of more than {line_bytes_max} bytes; is this an LMX server?")
