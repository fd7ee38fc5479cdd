"""Vectors on their way out: length, cutting, packing, and what is no number."""

import math
import struct

import pytest

from lmx_protocol.limits import RESULT_FRAME_BYTES_MAX
from lmx_worker.backends.vectors import NotANumberError, cosine, finite, packed, unit


def test_a_vector_is_brought_to_length_one_after_it_is_cut() -> None:
    """The kept components alone have length one; a vector of zeros has no direction and stays."""
    assert unit([3.0, 4.0]) == pytest.approx([0.6, 0.8])
    assert unit([3.0, 4.0, 12.0], 2) == pytest.approx([0.6, 0.8])
    assert unit([0.0, 0.0]) == [0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_found(value: float) -> None:
    """Neither a vector nor a score with it leaves the worker."""
    with pytest.raises(NotANumberError):
        unit([1.0, value])
    with pytest.raises(NotANumberError):
        finite(value)


def test_a_cosine_stays_within_its_bounds() -> None:
    """Rounding does not make it larger than one."""
    vector = unit([0.1] * 77)

    assert cosine(vector, vector) == pytest.approx(1.0)
    assert cosine(vector, vector) <= 1.0
    assert cosine([1.0, 0.0], [0.0, 1.0]) == 0.0
    assert cosine([1.0, 0.0], [-1.0, 0.0]) == -1.0


def test_vectors_are_packed_in_events_of_bounded_size() -> None:
    """Every event is within the bound, they follow each other without gaps, and the numbers come back."""
    dimensions = RESULT_FRAME_BYTES_MAX // 4 // 2
    vectors = [[float(index)] * dimensions for index in range(5)]
    events = list(packed("r", 10, vectors))

    assert [(10, 2), (12, 2), (14, 1)] == [(event.first_index, len(event.data) // 4 // dimensions) for event in events]
    assert max(len(event.data) for event in events) <= RESULT_FRAME_BYTES_MAX
    assert {event.dimensions for event in events} == {dimensions}
    data = b"".join(event.data for event in events)
    assert list(struct.unpack(f"<{5 * dimensions}f", data)) == [value for vector in vectors for value in vector]
    assert list(packed("r", 0, [])) == []
