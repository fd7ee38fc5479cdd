"""Bytes and seconds as the admin routes have always shown them."""

BYTES_PER_GB = 1024**3
_GB_DIGITS = 3


def gigabytes(size_bytes: int | None) -> float | None:
    """Bytes in units of 2³⁰, as the `*_gb` fields count; None stays None."""
    return None if size_bytes is None else round(size_bytes / BYTES_PER_GB, _GB_DIGITS)


def milliseconds(seconds: float | None) -> float | None:
    """Seconds in milliseconds; None stays None."""
    return None if seconds is None else round(seconds * 1000, 1)
