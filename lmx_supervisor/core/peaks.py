"""What models really cost at their peak, by the digest of their files and the way they were loaded. Pure."""

from collections.abc import Iterator

from lmx_protocol import limits


class Peaks:
    """At most `MEMORY_PEAKS_MAX` of them; the one that was noted longest ago makes room."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}

    def note(self, digest: str, peak_bytes: int) -> None:
        """A worker was seen at this footprint."""
        if not digest or peak_bytes <= 0:
            return
        self._peaks[digest] = max(peak_bytes, self._peaks.pop(digest, 0))
        if len(self._peaks) > limits.MEMORY_PEAKS_MAX:
            del self._peaks[next(iter(self._peaks))]

    def of(self, digest: str) -> int | None:
        """The highest footprint seen, or None."""
        return self._peaks.get(digest)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Digest and bytes, the latest noted last."""
        return iter(self._peaks.items())
