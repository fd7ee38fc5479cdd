"""Bytes and seconds as the admin routes have always shown them."""

from lmx_supervisor.observe import units


def gigabytes(size_bytes: int | None) -> float | None:
    """Bytes in units of 2³⁰, as the `*_gb` fields count; None stays None."""
    return None if size_bytes is None else units.gigabytes(size_bytes)


def milliseconds(seconds: float | None) -> float | None:
    """Seconds in milliseconds; None stays None."""
    return None if seconds is None else round(seconds * 1000, 1)
