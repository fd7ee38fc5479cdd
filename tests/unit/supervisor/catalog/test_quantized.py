"""Where quantized copies lie, how they get there, and what the catalog sees of them."""

from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.quantized import check_output, check_room, discard_staging, promote, staging_for
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.core.refusal import Refusal
from tests.unit.supervisor.catalog.model_files import write_mlx


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog of a models directory and a directory of copies."""
    for name in ("models", "quantized"):
        (tmp_path / name).mkdir()
    return Catalog(tmp_path / "models", {}, RegisteredModels.read(tmp_path / "home"), copies=tmp_path / "quantized")


async def ids(catalog: Catalog) -> list[str]:
    """What is listed."""
    return [model.model_id for model in await catalog.available()]


async def test_a_copy_is_a_model_once_it_has_its_name(tmp_path: Path, catalog: Catalog) -> None:
    """While it is gathered nobody sees it; afterwards it is listed, resolved and deleted like any other."""
    output = tmp_path / "quantized" / "m-4bit"
    staging = write_mlx(staging_for(output, "0a1b"))
    assert await ids(catalog) == []
    promote(staging, output)
    assert await ids(catalog) == ["m-4bit"]
    assert (await catalog.resolve("m-4bit")).path == str(output)

    assert await catalog.delete("m-4bit")
    assert not output.exists()
    assert await catalog.delete("m-4bit") is None


async def test_a_model_of_the_same_name_goes_before_a_copy(tmp_path: Path, catalog: Catalog) -> None:
    """One listing, the model's; deleting it brings the copy back."""
    model, copy = write_mlx(tmp_path / "models" / "m"), write_mlx(tmp_path / "quantized" / "m")
    assert await ids(catalog) == ["m"]
    assert (await catalog.resolve("m")).path == str(model)
    await catalog.delete("m")

    assert (await catalog.resolve("m")).path == str(copy)


def test_the_id_of_a_place(tmp_path: Path, catalog: Catalog) -> None:
    """What lies where the catalog looks has one, and nothing else."""
    places = {
        "quantized/m-4bit": "m-4bit",
        "models/m-4bit": "m-4bit",
        "models/org/m": "org/m",
        "models/too/deep/m": None,
        "models/.hidden/m": None,
        "elsewhere/m": None,
    }

    assert places == {place: catalog.id_of_place(tmp_path / place) for place in places}


def test_promoting_never_overwrites(tmp_path: Path) -> None:
    """Whatever is there stays, an empty directory and a dangling link too."""
    staging = tmp_path / ".quantize-1"
    staging.mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "link"):
        with pytest.raises(Refusal) as refused:
            promote(staging, tmp_path / name)
        assert refused.value.code is ErrorCode.OUTPUT_PATH_EXISTS

    assert staging.is_dir()


def test_discarding_removes_nothing_but_copies(tmp_path: Path) -> None:
    """A path from a file that somebody has edited cannot make it delete a model; what is gone is gone."""
    model, staging = write_mlx(tmp_path / "model"), write_mlx(tmp_path / ".quantize-1")
    for path in (model, staging, staging):
        discard_staging(path)

    assert model.is_dir()
    assert not staging.exists()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("copy", "absolute"),
        ("/a/../b", "absolute"),
        ("/a\nb", "control"),
        ("/" + "x" * 5000, "absolute"),
        ("/", "dot"),
        ("/tmp/.copy", "dot"),
        ("/models/org/m/copy", "source"),
        ("/models/org", "source"),
        ("/no/such/parent", "make it first"),
    ],
)
def test_places_that_cannot_be(output: str, words: str) -> None:
    """Each is refused with what to do, and the field."""
    with pytest.raises(Refusal, match=words) as refused:
        check_output(output, Path("/models/org/m"))

    assert (refused.value.code, refused.value.param) == (ErrorCode.INVALID_VALUE, "output_path")


def test_a_disk_without_room(tmp_path: Path) -> None:
    """507 with the arithmetic; with room it passes."""
    check_room(tmp_path / "copy", 1, 0)
    with pytest.raises(Refusal, match="short") as refused:
        check_room(tmp_path / "copy", 2**60, 0)

    assert refused.value.code is ErrorCode.INSUFFICIENT_DISK
