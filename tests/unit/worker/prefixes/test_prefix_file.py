"""A saved prefix on the disk: it comes back as it was, or not at all."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_worker.prefixes import prefix_file
from lmx_worker.prefixes.prefix_file import OutOfTimeError, UnusableError

FINGERPRINT = "ab" * 16
TOKENS = [0, 1, 2**31 - 1]
STATE = bytes(range(256)) * 40
NEVER = float("inf")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole file."""
    path = tmp_path / "one.prefix"
    size = prefix_file.write(path, FINGERPRINT, TOKENS, memoryview(STATE), can_cut=True, until=NEVER)
    assert path.stat().st_size == size <= prefix_file.file_bytes(len(TOKENS), len(STATE))
    return path


def test_it_comes_back_as_it_was(saved: Path) -> None:
    """Tokens and state are what was written, and nobody else may read them."""
    contents = prefix_file.look_at(saved, FINGERPRINT)
    assert (contents.tokens, contents.can_cut, contents.file_bytes) == (TOKENS, True, saved.stat().st_size)
    assert prefix_file.read_state(saved, FINGERPRINT, TOKENS) == STATE
    assert saved.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("length", [0, 1, 40, 100, 1000, -1])
def test_a_torn_file_is_not_used(saved: Path, length: int) -> None:
    """Cut off in its head, its header or its state, it is refused at the first look."""
    data = saved.read_bytes()
    saved.write_bytes(data[:length])
    with pytest.raises(UnusableError):
        prefix_file.look_at(saved, FINGERPRINT)


def test_a_file_that_grew_is_not_used(saved: Path) -> None:
    """Bytes after the state are as wrong as missing ones."""
    with saved.open("ab") as file:
        file.write(b"x")
    with pytest.raises(UnusableError, match="cut off"):
        prefix_file.look_at(saved, FINGERPRINT)


@pytest.mark.parametrize("position", [0, 7, 9, 15, 30, 60, 120, 150, -1, -5000])
def test_one_wrong_byte_anywhere_is_noticed(saved: Path, position: int) -> None:
    """Before a single byte of the state is handed out."""
    data = bytearray(saved.read_bytes())
    data[position] ^= 1
    saved.write_bytes(data)
    with pytest.raises(UnusableError):
        prefix_file.read_state(saved, FINGERPRINT, TOKENS)


def test_the_state_of_another_model_is_not_used(saved: Path) -> None:
    """A file renamed to look like another model's still says whose it is."""
    with pytest.raises(UnusableError, match="another model"):
        prefix_file.read_state(saved, "cd" * 16, TOKENS)


def test_a_file_that_was_exchanged_is_not_used(saved: Path) -> None:
    """The tokens are looked at again with the state: a slot must not be said to hold what it does not."""
    with pytest.raises(UnusableError, match="other tokens"):
        prefix_file.read_state(saved, FINGERPRINT, [1, 2, 3])


def test_a_file_larger_than_any_of_ours_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is looked at before there is memory for it."""
    monkeypatch.setattr(limits, "PREFIX_FILE_BYTES_MAX", len(STATE) - 1)
    with pytest.raises(UnusableError, match="too large"):
        prefix_file.look_at(saved, FINGERPRINT)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_link, _fifo, Path.unlink])
def test_what_is_no_file_of_ours_is_not_opened(saved: Path, spoil: Callable[[Path], None]) -> None:
    """A link, a FIFO, nothing at all: an error at once, never a hang."""
    spoil(saved)
    with pytest.raises((UnusableError, OSError)):
        prefix_file.look_at(saved, FINGERPRINT)


def test_a_disk_that_is_too_slow_leaves_nothing(tmp_path: Path) -> None:
    """When the time is over in the middle of the state, neither the file nor its temporary stays."""
    ticks = iter(range(100))
    with pytest.raises(OutOfTimeError):
        prefix_file.write(
            tmp_path / "one.prefix",
            FINGERPRINT,
            TOKENS,
            memoryview(bytes(3 * limits.PREFIX_CHUNK_BYTES)),
            can_cut=True,
            until=4,
            now=lambda: next(ticks),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A write that fails half-way is an error, and what was written is gone again."""
    with pytest.raises(OSError):
        _write_with_file_limit(tmp_path / "one.prefix", file_bytes_max=4096)
    assert list(tmp_path.iterdir()) == []


def _write_with_file_limit(path: Path, *, file_bytes_max: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, hard))
    try:
        prefix_file.write(path, FINGERPRINT, TOKENS, memoryview(STATE), can_cut=True, until=time.monotonic() + 60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
