"""Sizes and times in as few characters as people need."""

_SIZES = ((1024**4, "T"), (1024**3, "G"), (1024**2, "M"), (1024, "K"))
_TIMES = ((86400, "d"), (3600, "h"), (60, "m"))


def short_size(size_bytes: float | None) -> str:
    """For example 92M or 1.2G, in powers of 1024; `-` for None."""
    if size_bytes is None:
        return "-"
    for unit_bytes, letter in _SIZES:
        if size_bytes >= unit_bytes:
            value = size_bytes / unit_bytes
            return f"{value:.1f}{letter}" if value < 9.95 else f"{value:.0f}{letter}"
    return f"{size_bytes:.0f}B"


def short_wait(seconds: float | None) -> str:
    """For example 4ms, 250ms, 1.2s or 34s; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"


def short_duration(seconds: float | None) -> str:
    """For example 12s, 4m, 3h or 2d, rounded down; `-` for None."""
    if seconds is None:
        return "-"
    for unit_seconds, letter in _TIMES:
        if seconds >= unit_seconds:
            return f"{seconds // unit_seconds:.0f}{letter}"
    return f"{max(seconds, 0) // 1:.0f}s"
