"""Files of a model that were cut short under its worker."""

import os
from pathlib import Path

from lmx_supervisor.runtime.model_files import file_sizes, has_shrunk


def test_a_shorter_file_is_noticed_in_every_kind_of_model(tmp_path: Path) -> None:
    """One file, a later part of a split model, a file in a directory: cutting any of them counts."""
    (tmp_path / "dir").mkdir()
    single, part, inside = tmp_path / "a.gguf", tmp_path / "b-00002-of-00002.gguf", tmp_path / "dir/model.safetensors"
    for file in (single, part, tmp_path / "b-00001-of-00002.gguf", inside):
        file.write_bytes(b"x" * 100)
    for path, victim in ((single, single), (tmp_path / "b-00001-of-00002.gguf", part), (tmp_path / "dir", inside)):
        sizes = file_sizes(path)
        whole = has_shrunk(sizes)
        os.truncate(victim, 99)

        assert (whole, has_shrunk(sizes)) == (False, True), path


def test_a_longer_replaced_or_deleted_file_is_not_truncated(tmp_path: Path) -> None:
    """Only a file that became shorter takes mapped pages away."""
    grown, gone = tmp_path / "grown", tmp_path / "gone"
    for file in (grown, gone):
        file.write_bytes(b"x" * 100)
    sizes = file_sizes(grown) | file_sizes(gone)
    grown.write_bytes(b"x" * 200)
    gone.unlink()

    assert has_shrunk(sizes) is False


def test_a_model_that_is_not_there_has_no_sizes(tmp_path: Path) -> None:
    """Nothing raises: evidence is best effort."""
    assert file_sizes(tmp_path / "none.gguf") == {}
    assert has_shrunk({}) is False
