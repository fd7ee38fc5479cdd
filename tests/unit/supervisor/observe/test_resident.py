"""Which part of a reading of the host's memory is a worker's."""

import os

import pytest

from lmx_supervisor.observe.resident import parse_statm, resident_bytes


def test_file_pages_are_not_counted() -> None:
    """Mapped weights are cache, which the host calls available."""
    assert parse_statm("100000 5000 3000 1 0 2000 0\n") == 2000 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("text", ["", "1", "a b c d"])
def test_nonsense_is_refused(text: str) -> None:
    """What is no line of the kernel's raises."""
    with pytest.raises(ValueError):
        parse_statm(text)


def test_a_process_that_is_gone_has_none() -> None:
    """Its pages went with it."""
    assert resident_bytes(2**22 + 1) is None
