"""Broken MLX directories: found before native code reads them, named in the message."""

import json
import os
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_worker.backends.base import LoadError
from lmx_worker.backends.mlx.backend import MlxBackend
from lmx_worker.backends.mlx.files import check_model_directory, train_context_length
from tests.support.mlx_models import write_tiny_mlx_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A complete model to break."""
    return write_tiny_mlx_model(tmp_path / "model")


def load_error(path: Path, **spec: int) -> LoadError:
    """What loading `path` fails with."""
    backend = MlxBackend()
    backend.import_libraries()
    with pytest.raises(LoadError) as caught:
        backend.load(ModelSpec(model_id="m", path=str(path), format=ModelFormat.MLX, **spec), lambda *_: None)
    return caught.value


def edit_config(model: Path, **changes: object) -> None:
    """Change keys of the model's configuration."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def test_a_whole_directory_passes(model: Path) -> None:
    """A complete model is described by its type, its shards and their size on disk."""
    files = check_model_directory(str(model))
    assert files.model_type == "llama"
    assert [shard.name for shard in files.shards] == ["model.safetensors"]
    assert files.weights_bytes == (model / "model.safetensors").stat().st_size


def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    """A path that does not exist is a model that was not found, not a broken one."""
    error = load_error(tmp_path / "nowhere")
    assert error.code == ErrorCode.MODEL_NOT_FOUND
    assert "nowhere" in str(error)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    """A file in the place of the directory is refused with what was expected."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    error = load_error(path)
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "config.json" in str(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_each_missing_file_is_named(model: Path, name: str) -> None:
    """Whatever required file is missing, the message says which."""
    (model / name).unlink()
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert name.removeprefix("model") in str(error)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_none_is_refused(model: Path, content: bytes) -> None:
    """Broken JSON, JSON of another shape and a config without model_type are all incomplete models."""
    (model / "config.json").write_bytes(content)
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "config.json" in str(error)


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, -1])
def test_a_truncated_shard_is_named_before_mlx_reads_it(model: Path, kept_bytes: int) -> None:
    """A shard cut anywhere, from empty to its last byte, is reported with its name."""
    shard = model / "model.safetensors"
    os.truncate(shard, kept_bytes if kept_bytes >= 0 else shard.stat().st_size + kept_bytes)
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "model.safetensors is truncated" in str(error)


@pytest.mark.parametrize(
    "header", [b"not json", b"[1]", b'{"a": 1}', b'{"a": {"data_offsets": [0]}}', b'{"a": {"data_offsets": "xy"}}']
)
def test_a_shard_with_a_garbage_header_is_refused(model: Path, header: bytes) -> None:
    """Any header that is not a table of extents is a broken file, never an exception of another kind."""
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "model.safetensors" in str(error)


def test_a_shard_listed_in_the_index_but_missing_is_named(model: Path) -> None:
    """An interrupted download leaves the index and some shards: the missing one is named."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "1 of 2 files" in str(error)
    assert "model-00002-of-00002.safetensors" in str(error)


@pytest.mark.parametrize("model_type", ["no_such_architecture", "../llama", "os.path"])
def test_an_unknown_architecture_is_refused(model: Path, model_type: str) -> None:
    """A model_type that mlx-lm has no module for is an unsupported architecture, whatever it is made of."""
    edit_config(model, model_type=model_type)
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_UNSUPPORTED_ARCH
    assert model_type in str(error)


def test_a_model_with_its_own_code_is_refused(model: Path) -> None:
    """Code that comes with a model never runs."""
    edit_config(model, model_file="model.py")
    (model / "model.py").write_text("raise SystemExit(1)")
    assert load_error(model).code == ErrorCode.MODEL_UNSUPPORTED_ARCH


def test_weights_that_do_not_fit_the_config_are_a_failed_probe(model: Path) -> None:
    """A mismatch only mlx-lm can see comes back as one load error with its words."""
    edit_config(model, num_hidden_layers=3)
    error = load_error(model)
    assert error.code == ErrorCode.MODEL_PROBE_FAILED
    assert "parameters" in str(error)


def test_a_broken_tokenizer_is_a_failed_probe(model: Path) -> None:
    """A tokenizer file that cannot be parsed fails the load, not the first request."""
    (model / "tokenizer.json").write_text("{")
    assert load_error(model).code == ErrorCode.MODEL_PROBE_FAILED


def test_a_quantized_cache_is_refused(model: Path) -> None:
    """mlx-lm cannot batch quantized caches, so the wish is refused instead of ignored."""
    error = load_error(model, kv_bits=8)
    assert error.code == ErrorCode.INVALID_VALUE
    assert "kv_bits" in str(error)


def test_the_trained_context_is_found_in_nested_configs() -> None:
    """Multimodal configurations keep the text model's length one level down; where nobody says, it is 0."""
    assert train_context_length({"text_config": {"max_position_embeddings": 32}}) == 32
    assert train_context_length({"n_positions": 16, "text_config": None}) == 16
    assert train_context_length({"max_position_embeddings": None}) == 0
