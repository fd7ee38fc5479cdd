"""Vectors as they leave a worker: of length one, cut to the wanted dimensions, packed. Plain Python, so every backend has it.

A model computes for far longer than this takes: 0.2 ms for 4096 components.
"""

import math
import struct
from collections.abc import Iterator, Sequence

from lmx_protocol.limits import RESULT_FRAME_BYTES_MAX
from lmx_protocol.messages import Vectors

Vector = Sequence[float]

FLOAT_BYTES = 4


class NotANumberError(ArithmeticError):
    """The model computed infinities, or what is no number at all."""


def unit(values: Vector, dimensions: int | None = None) -> list[float]:
    """The first `dimensions` components (None: all), scaled to length one; nothing but zeros stays as it is.

    Raises:
        NotANumberError: a component is not finite.
    """
    kept = values[:dimensions]
    length = math.hypot(*kept)
    if not math.isfinite(length):
        raise NotANumberError
    return [value / length for value in kept] if length else list(kept)


def cosine(left: Vector, right: Vector) -> float:
    """The cosine of the angle between two vectors of length one."""
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(left, right, strict=True))))


def finite(score: float) -> float:
    """The score. Raises `NotANumberError` when it is none."""
    if not math.isfinite(score):
        raise NotANumberError
    return score


def packed(request_id: str, first_index: int, vectors: Sequence[Vector]) -> Iterator[Vectors]:
    """The vectors of inputs `first_index` and following as events of bounded size."""
    if not vectors:
        return
    dimensions = len(vectors[0])
    per_event = max(1, RESULT_FRAME_BYTES_MAX // (dimensions * FLOAT_BYTES))
    for start in range(0, len(vectors), per_event):
        values = [value for vector in vectors[start : start + per_event] for value in vector]
        data = struct.pack(f"<{len(values)}f", *values)
        yield Vectors(request_id=request_id, first_index=first_index + start, dimensions=dimensions, data=data)
