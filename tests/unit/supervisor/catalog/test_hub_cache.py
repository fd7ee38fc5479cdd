"""What other programs have in the hub client's cache."""

from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.hub_cache import cached_models, cached_snapshot, hub_cache_directory
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.core.refusal import Refusal
from tests.unit.supervisor.catalog.model_files import gguf_bytes, write_gguf, write_mlx

OLD, NEW = "a" * 40, "b" * 40


def snapshot_of(cache: Path, name: str, commit: str = NEW, *, ref: str | None = NEW) -> Path:
    """The directory of a snapshot."""
    repository = cache / f"models--org--{name}"
    if ref is not None:
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs/main").write_text(ref)
    return repository / "snapshots" / commit


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"}, "/old"),
        ({"HF_HUB_CACHE": "/c", "HUGGINGFACE_HUB_CACHE": "/old"}, "/c"),
    ],
)
def test_where_it_is(environment: dict[str, str], expected: str) -> None:
    """The client's variables count in the client's order."""
    assert hub_cache_directory(environment) == Path(expected).expanduser()


def test_only_whole_models_count(tmp_path: Path) -> None:
    """Whole snapshots are models under their repository's id; half ones, datasets and strange names are not."""
    write_mlx(snapshot_of(tmp_path, "mlx"))
    write_gguf(snapshot_of(tmp_path, "gguf") / "weights.gguf")
    half = write_mlx(snapshot_of(tmp_path, "half"), shards=2, index=True)
    (half / "model-00002-of-00002.safetensors").unlink()
    (snapshot_of(tmp_path, "cut")).mkdir(parents=True)
    (snapshot_of(tmp_path, "cut") / "weights.gguf").write_bytes(gguf_bytes()[:-20])
    write_mlx(tmp_path / "datasets--org--data" / "snapshots" / NEW)
    write_mlx(tmp_path / "models--lonely" / "snapshots" / NEW)

    assert {found.model_id: found.path for found in cached_models(tmp_path)} == {
        "org/mlx": snapshot_of(tmp_path, "mlx"),
        "org/gguf": snapshot_of(tmp_path, "gguf") / "weights.gguf",
    }


def test_which_snapshot_counts(tmp_path: Path) -> None:
    """The one that `main` names; a broken reference falls back to one that is there, a missing cache is empty."""
    for commit in (OLD, NEW):
        write_mlx(snapshot_of(tmp_path, "two", commit, ref=OLD))
    assert cached_snapshot(tmp_path, "org/two") == snapshot_of(tmp_path, "two", OLD, ref=OLD)
    write_mlx(snapshot_of(tmp_path, "one", NEW, ref="../../../etc"))
    assert cached_snapshot(tmp_path, "org/one") == snapshot_of(tmp_path, "one", NEW, ref=None)

    assert cached_snapshot(tmp_path, "org/none") is None
    assert list(cached_models(tmp_path / "nowhere")) == []


async def test_the_catalog_looks_there_last(tmp_path: Path) -> None:
    """The models directory goes before the cache; what only the cache has is found; half of a model is told as that."""
    cache, models = tmp_path / "cache", tmp_path / "models"
    write_mlx(snapshot_of(cache, "both"))
    write_mlx(snapshot_of(cache, "cached"))
    half = write_mlx(snapshot_of(cache, "half"), shards=2, index=True)
    (half / "model-00002-of-00002.safetensors").unlink()
    write_mlx(models / "org" / "both")
    catalog = Catalog(models, {}, RegisteredModels.read(tmp_path / "home"), cache)

    assert [model.model_id for model in await catalog.available()] == ["org/both", "org/cached"]
    assert (await catalog.resolve("org/both")).path == str(models / "org/both")
    assert (await catalog.resolve("org/cached")).path == str(snapshot_of(cache, "cached"))
    with pytest.raises(Refusal, match=r"model-00002-of-00002\.safetensors") as refused:
        await catalog.resolve("org/half")
    assert refused.value.code is ErrorCode.MODEL_INCOMPLETE
    with pytest.raises(Refusal) as refused:
        await catalog.delete("org/cached")
    assert refused.value.code is ErrorCode.NOT_SUPPORTED
