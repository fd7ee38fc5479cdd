"""The digest by which a changed model is told from the one that was quarantined."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.digest import model_digest
from tests.unit.supervisor.catalog.model_files import write_gguf, write_mlx


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    """An MLX model of several files."""
    write_mlx(tmp_path / "m")
    return ModelSpec(model_id="m", path=str(tmp_path / "m"), format=ModelFormat.MLX)


def test_the_same_model_has_the_same_digest(spec: ModelSpec) -> None:
    """Nothing of the moment goes into it."""
    assert model_digest(spec, "mlx") == model_digest(spec, "mlx")


def _touch(directory: Path) -> None:
    os.utime(directory / "config.json", ns=(1, 1))


def _grow(directory: Path) -> None:
    before = (directory / "config.json").stat()
    with (directory / "config.json").open("a") as file:
        file.write(" ")
    os.utime(directory / "config.json", ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        _touch,
        _grow,
        lambda directory: (directory / "extra.json").touch(),
        lambda directory: next(directory.glob("*.safetensors")).unlink(),
    ],
)
def test_a_changed_file_changes_it(spec: ModelSpec, change: Callable[[Path], object]) -> None:
    """A new time, a new size, one file more or less."""
    before = model_digest(spec, "mlx")
    change(Path(spec.path))

    assert model_digest(spec, "mlx") != before


def test_configuration_and_backend_change_it(spec: ModelSpec) -> None:
    """What would be loaded differently is something else."""
    others = [
        model_digest(msgspec.structs.replace(spec, context_length=512), "mlx"),
        model_digest(msgspec.structs.replace(spec, slots=1), "mlx"),
        model_digest(spec, "llamacpp"),
    ]

    assert len({model_digest(spec, "mlx"), *others}) == 4


def test_every_part_of_a_split_gguf_counts(tmp_path: Path) -> None:
    """Not only the part whose path is known."""
    parts = [tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for part in parts:
        write_gguf(part)
    spec = ModelSpec(model_id="m", path=str(parts[0]), format=ModelFormat.GGUF)
    before = model_digest(spec, "llamacpp")
    os.utime(parts[1], ns=(1, 1))

    assert model_digest(spec, "llamacpp") != before
