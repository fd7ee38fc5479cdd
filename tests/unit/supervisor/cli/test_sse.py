"""Bytes to events, however the network cuts them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.sse import event_data

STREAM = ": hello\r\n\r\nid: 1\nevent: x\ndata: {é}\n\ndata:two\ndata: lines\n\n: ping\n\ndata: [DONE]\n\ndata: half".encode()
DATA = ["{é}", "two\nlines", "[DONE]"]


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM))))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    """Any chunking gives the same events, without comments, other fields and the half event at the end."""
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(edges)]
    assert list(event_data(chunks, line_bytes_max=100)) == DATA


def test_an_endless_line_is_refused() -> None:
    """A line over the bound ends the reading instead of filling the memory."""
    with pytest.raises(NoAnswer, match="more than 100 bytes"):
        list(event_data([b"data: "] * 20, line_bytes_max=100))


def test_broken_utf8_does_not_end_the_stream() -> None:
    """Bytes that are no text become replacement characters."""
    assert list(event_data([b"data: \xff\n\n"], line_bytes_max=100)) == ["�"]
