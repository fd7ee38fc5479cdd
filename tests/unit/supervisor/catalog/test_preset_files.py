"""Reading presets from a directory: what counts, what is skipped and why, and that nothing on the disk can hurt."""

import os
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_supervisor.catalog.preset_files import read_presets


def test_only_yaml_files_count(tmp_path: Path) -> None:
    """In the order of their names; hidden files and other endings are not looked at."""
    for name in ("b.yaml", "a.yaml"):
        (tmp_path / name).write_text(f"name: {name[0]}\nmodel: m\n")
    for name in (".c.yaml", "d.yml", "e.yaml~", "notes.txt"):
        (tmp_path / name).write_text("[")
    book, skipped = read_presets(tmp_path, must_exist=True)

    assert (("a", "b"), ()) == (book.names(), skipped)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"name: [", "is not valid YAML"),
        (b"name: x\nname: y\nmodel: m\n", "'name' stands there twice in line 2"),
        (b"\xff", "is not UTF-8 text (byte 0)"),
        (b"#" * (limits.PRESET_FILE_BYTES_MAX + 1), "is larger than"),
        (b"[" * 400, "is not valid YAML"),
        (b"", "Expected `object`, got `null`"),
        (b"name: x\nmodel: m\nsystem: s\n", "unknown field `system`"),
        (b"name: x\nmodel: m\nparameters: &a {stop: [*a]}\n", "parameters.stop"),
    ],
)
def test_a_bad_file_costs_only_itself(tmp_path: Path, data: bytes, words: str) -> None:
    """It is skipped with its name and the reason; its neighbours are there."""
    (tmp_path / "bad.yaml").write_bytes(data)
    (tmp_path / "good.yaml").write_text("name: good\nmodel: m\n")
    book, (skipped,) = read_presets(tmp_path, must_exist=True)

    assert (("good",), "bad.yaml") == (book.names(), skipped.file)
    assert words in skipped.reason


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory, a pipe nobody writes to, and a link to nowhere."""
    (tmp_path / "directory.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    book, skipped = read_presets(tmp_path, must_exist=True)

    assert () == book.names()
    assert ["directory.yaml", "link.yaml", "pipe.yaml"] == [each.file for each in skipped]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Nothing to tell of the default one; of one that was named, that it cannot be read."""
    missing = tmp_path / "missing"
    (_, quiet), (book, (skipped,)) = read_presets(missing, must_exist=False), read_presets(missing, must_exist=True)

    assert ((), 0) == (quiet, len(book))
    assert (str(missing), "cannot be read: No such file or directory") == (skipped.file, skipped.reason)


def test_too_many_are_not_read(tmp_path: Path) -> None:
    """The first ones by their names are, and what is left out is told."""
    for number in range(limits.PRESETS_MAX + 2):
        (tmp_path / f"{number:04}.yaml").write_text(f"name: p{number}\nmodel: m\n")
    book, (skipped,) = read_presets(tmp_path, must_exist=True)

    assert (limits.PRESETS_MAX, f"{limits.PRESETS_MAX:04}.yaml") == (len(book), skipped.file)
    assert skipped.reason.startswith("2 files from this one on are not read")
