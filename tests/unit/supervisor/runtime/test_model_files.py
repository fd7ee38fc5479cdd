"""Files of a model that were cut short or replaced under its worker."""

import os
from pathlib import Path

from lmx_supervisor.runtime.model_files import changed_file, has_shrunk, look_at_files


def test_a_shorter_file_is_noticed_in_every_kind_of_model(tmp_path: Path) -> None:
    """One file, a later part of a split model, a file in a directory: cutting any of them counts."""
    (tmp_path / "dir").mkdir()
    single, part, inside = tmp_path / "a.gguf", tmp_path / "b-00002-of-00002.gguf", tmp_path / "dir/model.safetensors"
    for file in (single, part, tmp_path / "b-00001-of-00002.gguf", inside):
        file.write_bytes(b"x" * 100)
    for path, victim in ((single, single), (tmp_path / "b-00001-of-00002.gguf", part), (tmp_path / "dir", inside)):
        looks = look_at_files(path)
        whole = has_shrunk(looks)
        os.truncate(victim, 99)

        assert (whole, has_shrunk(looks)) == (False, True), path


def test_a_longer_replaced_or_deleted_file_is_not_truncated(tmp_path: Path) -> None:
    """Only a file that became shorter takes mapped pages away."""
    grown, gone = tmp_path / "grown", tmp_path / "gone"
    for file in (grown, gone):
        file.write_bytes(b"x" * 100)
    looks = look_at_files(grown) | look_at_files(gone)
    grown.write_bytes(b"x" * 200)
    gone.unlink()

    assert has_shrunk(looks) is False


def test_a_model_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    """Nothing raises: evidence is best effort."""
    assert look_at_files(tmp_path / "none.gguf") == {}
    assert has_shrunk({}) is False


def test_every_change_during_a_load_is_named(tmp_path: Path) -> None:
    """Written in place, replaced by one of the same length, deleted: the file and what became of it; a new one is no change."""
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x" * 100)
    looks = look_at_files(path)
    (tmp_path / "b.gguf").write_bytes(b"y" * 100)
    unchanged = changed_file(looks)
    (tmp_path / "b.gguf").replace(path)
    replaced = changed_file(looks)
    looks = look_at_files(path)
    path.write_bytes(b"z" * 50)
    written = changed_file(looks)
    path.unlink()

    assert unchanged is None
    assert replaced == f"{path} was replaced by another file (100 bytes before, 100 now)"
    assert written == f"{path} was written anew (100 bytes before, 50 now)"
    assert changed_file(looks) == f"{path} was deleted"
