"""Whole models are recognised; everything else is refused with what is wrong and what to do."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.demo import find_demo_model
from lmx_supervisor.catalog.gguf_file import check_gguf
from lmx_supervisor.catalog.identify import identify
from lmx_supervisor.core.refusal import Refusal
from tests.unit.supervisor.catalog.model_files import gguf_bytes, safetensors_bytes, write_gguf, write_mlx, write_script


def refusal_of(path: Path) -> Refusal:
    """The refusal that `identify` gives."""
    with pytest.raises(Refusal) as refused:
        identify(path)
    return refused.value


def spoiled(data: bytes, old: bytes, new: bytes) -> bytes:
    """`data` with the one occurrence of `old` replaced."""
    assert data.count(old) == 1
    return data.replace(old, new)


def test_the_three_kinds_of_model(tmp_path: Path) -> None:
    """A GGUF file, an MLX directory and a script are told apart, with their sizes on disk."""
    gguf, mlx, script = write_gguf(tmp_path / "a.gguf"), write_mlx(tmp_path / "mlx"), write_script(tmp_path / "s.script.yaml")
    assert [identify(path).format for path in (gguf, mlx, script)] == [ModelFormat.GGUF, ModelFormat.MLX, ModelFormat.SCRIPT]
    assert identify(gguf).size_bytes == gguf.stat().st_size
    assert identify(mlx).size_bytes == sum(file.stat().st_size for file in mlx.iterdir())


def test_a_gguf_is_known_by_its_content(tmp_path: Path) -> None:
    """The name of a file does not matter, only how it starts."""
    assert identify(write_gguf(tmp_path / "blob-1234")).format is ModelFormat.GGUF


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [None, 32, 64])
@pytest.mark.parametrize("tokens", [0, 3, 200_000])
def test_every_shape_of_header_is_read_to_the_byte(tmp_path: Path, version: int, alignment: int | None, tokens: int) -> None:
    """Versions, alignments and vocabularies larger than the read window lead to the exact size of the file."""
    path = tmp_path / "m.gguf"
    data = gguf_bytes(version=version, alignment=alignment, tokens=tokens)
    path.write_bytes(data)
    assert check_gguf(path).bytes_needed == len(data)


def test_a_gguf_cut_anywhere_is_incomplete(tmp_path: Path) -> None:
    """Every prefix of a file, from its fifth byte to its last but one, is refused with a count of missing bytes."""
    path, data = tmp_path / "m.gguf", gguf_bytes()
    for length in range(4, len(data)):
        path.write_bytes(data[:length])
        refusal = refusal_of(path)
        assert refusal.code is ErrorCode.MODEL_INCOMPLETE
        assert "bytes are missing" in refusal.message
    assert f"1 of {len(data)} bytes are missing" in refusal.message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:8] + struct.pack("<Q", 2**40) + data[16:], "1099511627776 tensors"),
        (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "metadata keys"),
        (lambda data: data[:24] + struct.pack("<Q", 2**63) + data[32:], "bytes of a key"),
        (lambda data: spoiled(data, struct.pack("<II", 4, 1), struct.pack("<II", 99, 1)), "value type 99"),
        (lambda data: spoiled(data, struct.pack("<IIQ", 9, 6, 3), struct.pack("<IIQ", 9, 6, 2**50)), "array items"),
        (lambda data: spoiled(data, struct.pack("<IIQ", 9, 6, 3), struct.pack("<IIQ", 9, 9, 3)), "value type 9"),
        (lambda data: spoiled(data, struct.pack("<IQQ", 2, 4, 2), struct.pack("<IQQ", 9, 4, 2)), "9 dimensions"),
        (lambda data: spoiled(data, struct.pack("<IQQ", 2, 4, 2), struct.pack("<IQQ", 2, 2**40, 2**40)), "tensor elements"),
        (lambda data: spoiled(data, struct.pack("<Q", 1) + b"a", struct.pack("<Q", 2**62) + b"a"), "a string of"),
    ],
)
def test_a_nonsensical_header_is_refused_without_being_followed(
    tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    """Counts no real file has end the reading at once: no memory is allocated for them and no loop runs over them."""
    path = tmp_path / "m.gguf"
    path.write_bytes(spoil(gguf_bytes()))
    started = time.monotonic()
    refusal = refusal_of(path)
    assert time.monotonic() - started < 1
    assert refusal.code is ErrorCode.MODEL_INCOMPLETE
    assert words in refusal.message


@pytest.mark.parametrize("alignment", [0, 33])
def test_an_impossible_alignment_is_refused(tmp_path: Path, alignment: int) -> None:
    """Zero would divide by zero, and anything but a power of two is damage."""
    path = tmp_path / "m.gguf"
    path.write_bytes(spoiled(gguf_bytes(alignment=64), struct.pack("<II", 4, 64), struct.pack("<II", 4, alignment)))
    assert f"alignment {alignment}" in refusal_of(path).message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gguf_bytes(version=1), "GGUF version 1"),
        (gguf_bytes(version=9), "GGUF version 9"),
        (gguf_bytes(order=">"), "big-endian"),
        (b"hello, world", "it starts with b'hello, w'"),
        (b"\0" * 64, "it starts with b'\\x00"),
        (b"PK\x03\x04" + b"x" * 64, "ZIP or PyTorch"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs", "Git LFS"),
        (b"G", "it starts with b'G'"),
    ],
)
def test_other_files_are_refused_with_what_they_are(tmp_path: Path, data: bytes, words: str) -> None:
    """A file that is no model is called what it looks like, beside what was expected."""
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    refusal = refusal_of(path)
    assert refusal.code is ErrorCode.MODEL_UNSUPPORTED_BACKEND
    assert words in refusal.message
    assert "expected a GGUF file, an MLX directory" in refusal.message


def test_missing_empty_and_special_files(tmp_path: Path) -> None:
    """Nothing there, nothing in it, a FIFO and a link in a circle each get their own answer, and none of them blocks."""
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "directory").mkdir()
    (tmp_path / "long.script.yaml").write_bytes(b"#" * (1024**2 + 1))
    (tmp_path / "empty.script.yaml").touch()
    missing = refusal_of(tmp_path / "missing")
    assert (missing.code, missing.param) == (ErrorCode.MODEL_NOT_FOUND, "path")
    assert refusal_of(tmp_path / "circle").code is ErrorCode.MODEL_NOT_FOUND
    assert refusal_of(tmp_path / "empty").code is ErrorCode.MODEL_INCOMPLETE
    assert refusal_of(tmp_path / "empty.script.yaml").code is ErrorCode.MODEL_INCOMPLETE
    for name in ("fifo", "directory", "long.script.yaml"):
        assert refusal_of(tmp_path / name).code is ErrorCode.MODEL_UNSUPPORTED_BACKEND


def test_a_model_in_parts_needs_all_of_them(tmp_path: Path) -> None:
    """Any part stands for the whole model; a missing part is named and a cut one is found."""
    parts = [write_gguf(tmp_path / f"m-0000{n}-of-00003.gguf") for n in (1, 2, 3)]
    whole = identify(parts[1])
    assert (whole.path, whole.size_bytes) == (parts[0], 3 * parts[0].stat().st_size)
    os.truncate(parts[2], 60)
    assert parts[2].name in refusal_of(parts[0]).message
    parts[2].unlink()
    assert f"missing {parts[2].name}" in refusal_of(parts[0]).message


def test_a_directory_with_ggufs(tmp_path: Path) -> None:
    """One GGUF in a directory is the model, beside its image projector; of two the operator must choose."""
    model = write_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "mmproj-m.gguf")
    assert identify(tmp_path).path == model
    write_gguf(tmp_path / "n.gguf")
    refusal = refusal_of(tmp_path)
    assert (refusal.code, refusal.param) == (ErrorCode.INVALID_VALUE, "path")


@pytest.mark.parametrize("index", [False, True])
def test_missing_shards_are_named(tmp_path: Path, index: bool) -> None:
    """With an index or without, the names of the shards themselves say which are missing."""
    directory = write_mlx(tmp_path / "m", shards=3, index=index)
    assert identify(directory).format is ModelFormat.MLX
    (directory / "model-00002-of-00003.safetensors").unlink()
    refusal = refusal_of(directory)
    assert refusal.code is ErrorCode.MODEL_INCOMPLETE
    assert "missing model-00002-of-00003.safetensors" in refusal.message


def test_a_safetensors_file_cut_anywhere_is_incomplete(tmp_path: Path) -> None:
    """Every prefix of a shard is refused by the shard's name."""
    directory, data = write_mlx(tmp_path / "m"), safetensors_bytes()
    for length in range(len(data)):
        (directory / "model.safetensors").write_bytes(data[:length])
        refusal = refusal_of(directory)
        assert refusal.code is ErrorCode.MODEL_INCOMPLETE
        assert "model.safetensors" in refusal.message
    assert f"lacks 1 of {len(data)} bytes" in refusal.message


@pytest.mark.parametrize("data", [b"\xff" * 64, struct.pack("<Q", 4) + b"null", b"version https://git-lfs"])
def test_a_shard_of_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no safetensors header are not taken for one, however long they claim to be."""
    directory = write_mlx(tmp_path / "m")
    (directory / "model.safetensors").write_bytes(data)
    assert "model.safetensors is not a safetensors file" in refusal_of(directory).message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_each_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """Configuration, tokenizer and weights are all needed."""
    directory = write_mlx(tmp_path / "m")
    (directory / name).unlink()
    refusal = refusal_of(directory)
    assert refusal.code is ErrorCode.MODEL_INCOMPLETE
    assert f"missing {name}" in refusal.message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": 5}', "[" * 100_000])
def test_a_configuration_of_no_model_is_refused(tmp_path: Path, text: str) -> None:
    """A config.json that names no model type describes nothing that could be loaded."""
    directory = write_mlx(tmp_path / "m")
    (directory / "config.json").write_text(text)
    refusal = refusal_of(directory)
    assert refusal.code is ErrorCode.MODEL_UNSUPPORTED_BACKEND
    assert "config.json cannot be used" in refusal.message


@pytest.mark.parametrize("text", ["{", '{"weight_map": {"a": "../../secret"}}', '{"weight_map": {}}'])
def test_an_index_cannot_lead_astray(tmp_path: Path, text: str) -> None:
    """A damaged index, one that points out of the directory and an empty one are refused."""
    directory = write_mlx(tmp_path / "m", index=True)
    (directory / "model.safetensors.index.json").write_text(text)
    assert refusal_of(directory).code is ErrorCode.MODEL_INCOMPLETE


def test_the_demo_model_is_whole_and_checked_fast() -> None:
    """The embedded model's 49,152-token header is proven in well under the time anybody notices."""
    path = find_demo_model()
    started = time.perf_counter()
    header = check_gguf(path)
    # 20 ms on an idle machine; the bound leaves room for a busy one.
    assert time.perf_counter() - started < 0.5
    assert (header.tensors, header.bytes_needed) == (272, path.stat().st_size)
