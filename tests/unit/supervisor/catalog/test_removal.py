"""Deleting models, and the places of downloads beside them."""

from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.catalog import staging_area
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.catalog.removal import empty_trash
from lmx_supervisor.core.refusal import Refusal
from tests.unit.supervisor.catalog.model_files import gguf_bytes, write_gguf, write_mlx

GGUF_BYTES = len(gguf_bytes())


def catalog_of(models: Path, configured: dict[str, str] | None = None) -> Catalog:
    """A catalog of a models directory."""
    return Catalog(models, configured or {}, RegisteredModels.read(models.parent / "home"))


async def refusal_of(catalog: Catalog, model_id: str) -> Refusal:
    """Why a model is not deleted."""
    with pytest.raises(Refusal) as refused:
        await catalog.delete(model_id)
    return refused.value


async def test_a_directory_goes_with_everything_in_it(tmp_path: Path) -> None:
    """A model that is a directory leaves nothing, not even an empty owner's directory."""
    models = tmp_path / "models"
    directory = write_mlx(models / "org" / "mlx")
    size = sum(path.stat().st_size for path in directory.iterdir())

    assert await catalog_of(models).delete("org/mlx") == size
    assert not (models / "org").exists()
    assert not list((models / ".downloads").iterdir())


async def test_a_file_goes_with_its_parts_and_leaves_its_neighbours(tmp_path: Path) -> None:
    """One of several models in a directory is deleted alone, all parts of it."""
    models = tmp_path / "models"
    for part in (1, 2):
        write_gguf(models / "org" / "two" / f"q4-0000{part}-of-00002.gguf")
    other = write_gguf(models / "org" / "two" / "q8.gguf")

    assert await catalog_of(models).delete("org/two/q4") == 2 * GGUF_BYTES
    assert list((models / "org" / "two").iterdir()) == [other]


async def test_what_is_not_there(tmp_path: Path) -> None:
    """None, not an error; and a second deletion finds nothing."""
    models = tmp_path / "models"
    write_gguf(models / "flat.gguf")
    catalog = catalog_of(models)

    assert await catalog.delete("flat") == GGUF_BYTES
    assert await catalog.delete("flat") is None


async def test_a_registered_model_is_forgotten(tmp_path: Path) -> None:
    """Its files are the operator's and stay; the id is not known any more, also after a restart."""
    elsewhere = write_gguf(tmp_path / "elsewhere" / "mine.gguf")
    models = tmp_path / "models"
    models.mkdir()
    catalog = catalog_of(models)
    await catalog.register("mine", str(elsewhere))

    assert await catalog.delete("mine") == 0
    assert elsewhere.exists()
    assert await catalog_of(models).available() == []


async def test_whose_business_the_others_are(tmp_path: Path) -> None:
    """A model of the configuration is removed there; impossible ids are told as that."""
    elsewhere = write_gguf(tmp_path / "elsewhere" / "mine.gguf")
    catalog = catalog_of(tmp_path / "models", {"named": str(elsewhere)})

    assert (await refusal_of(catalog, "named")).code is ErrorCode.NOT_SUPPORTED
    for escape in ("../elsewhere/mine", "/etc/passwd", "a/../../elsewhere"):
        assert (await refusal_of(catalog, escape)).code is ErrorCode.INVALID_VALUE
    assert elsewhere.exists()


async def test_links_lead_nowhere(tmp_path: Path) -> None:
    """A link in the models directory is deleted, never what it points to; a linked owner's directory is not entered."""
    outside = write_mlx(tmp_path / "outside" / "mlx")
    models = tmp_path / "models"
    (models / "org").mkdir(parents=True)
    (models / "org" / "linked").symlink_to(outside)
    (models / "owner").symlink_to(outside.parent)
    catalog = catalog_of(models)

    assert await catalog.delete("org/linked") == 0
    assert (await refusal_of(catalog, "owner/mlx")).code is ErrorCode.NOT_SUPPORTED
    assert (outside / "config.json").exists()
    assert not (models / "org").exists()


def test_parts_are_discarded(tmp_path: Path) -> None:
    """What has come of a download is removed and measured; nothing there is nothing freed."""
    parts = staging_area.staging_of(tmp_path, "org/a") / "parts"
    parts.mkdir(parents=True)
    (parts / "x").write_bytes(b"12345")
    (parts / "same").hardlink_to(parts / "x")

    assert staging_area.discard(tmp_path, "org/a") == 5
    assert staging_area.discard(tmp_path, "org/a") == 0
    assert not parts.parent.exists()


@pytest.mark.parametrize("how", ["at the start", "by a discard"])
def test_a_swap_that_was_cut_off_is_undone(tmp_path: Path, how: str) -> None:
    """A model that was moved aside, and whose successor never came, is put back before anything else happens to it."""
    aside = staging_area.staging_of(tmp_path, "org/a") / "old"
    write_gguf(aside / "weights.gguf")
    staging_area.put_back_all(tmp_path) if how == "at the start" else staging_area.discard(tmp_path, "org/a")

    assert (tmp_path / "org/a/weights.gguf").exists()


def test_a_model_in_its_place_is_not_replaced_by_an_old_one(tmp_path: Path) -> None:
    """The swap had come to its end: what was moved aside is not wanted back."""
    write_gguf(staging_area.staging_of(tmp_path, "org/a") / "old" / "weights.gguf")
    new = write_gguf(tmp_path / "org" / "a" / "new.gguf")
    staging_area.put_back_all(tmp_path)

    assert list((tmp_path / "org/a").iterdir()) == [new]


def test_the_trash_is_emptied(tmp_path: Path) -> None:
    """What a kill left of a deletion goes at the next start."""
    write_gguf(tmp_path / ".downloads" / "deleted-1" / "weights.gguf")
    empty_trash(tmp_path)

    assert not list((tmp_path / ".downloads").iterdir())
