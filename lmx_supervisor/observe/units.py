"""Bytes as operators have always been shown them."""

_BYTES_PER_GB = 1024**3
_GB_DIGITS = 3


def gigabytes(size_bytes: int) -> float:
    """Bytes in units of 2³⁰, as everything named `*_gb` counts."""
    return round(size_bytes / _BYTES_PER_GB, _GB_DIGITS)
