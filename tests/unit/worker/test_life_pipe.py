"""The boot specification at the head of the life pipe."""

import os
import struct
from collections.abc import Iterator

import pytest

from lmx_protocol.codec import encode
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.limits import BOOT_SPEC_BYTES_MAX
from lmx_protocol.messages import BootSpec
from lmx_worker.life_pipe import read_boot_spec

SPEC = BootSpec(
    protocol=1,
    incarnation="i",
    endpoint="ipc:///nowhere",
    backend="scripted",
    server_public_key=b"p",
    server_secret_key=b"s",
    client_public_key=b"c",
    supervisor_pid=1,
    beat_interval_seconds=1.0,
    c_watchdog_seconds=60.0,
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_reads_the_specification_and_not_a_byte_more(pipe: tuple[int, int]) -> None:
    """What follows the specification stays in the pipe, which lives on."""
    data = encode(SPEC, bytes_max=BOOT_SPEC_BYTES_MAX)
    os.write(pipe[1], struct.pack(">I", len(data)) + data + b"rest")

    assert SPEC == read_boot_spec(pipe[0])
    assert b"rest" == os.read(pipe[0], 10)


@pytest.mark.parametrize(
    "data", [struct.pack(">I", BOOT_SPEC_BYTES_MAX + 1), struct.pack(">I", 3) + b"\xc1\xc1\xc1"], ids=["too large", "garbage"]
)
def test_refuses_what_is_no_specification(pipe: tuple[int, int], data: bytes) -> None:
    """An absurd length is refused before anything is read for it, and garbage is a violation."""
    os.write(pipe[1], data)

    with pytest.raises(ProtocolViolation):
        read_boot_spec(pipe[0])


def test_pipe_that_ends_early_is_an_end_of_file() -> None:
    """A supervisor that died while writing is gone, not broken."""
    read, write = os.pipe()
    os.write(write, struct.pack(">I", 10) + b"half")
    os.close(write)
    with pytest.raises(EOFError, match="4 of 10"):
        read_boot_spec(read)
    os.close(read)
