"""The bound on what computed prompts take on the disk, and clearing them."""

import asyncio
import os
from pathlib import Path

import pytest

from lmx_supervisor.config.schema import Config, ModelsConfig
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import PrefixCacheUse
from lmx_supervisor.runtime.prefix_disk import PrefixDisk


class Home:
    """A home with saved prefixes, and a configuration that may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.configure()
        self.prefixes = PrefixDisk(path, lambda: self.config)

    def configure(self, *, enabled: bool = True, bytes_max: int = 1000) -> None:
        self.config = Config(models=ModelsConfig(prefix_cache_enabled=enabled, prefix_cache_disk_bytes_max=bytes_max))

    def put(self, model_id: str, name: str, size: int, used_at: float) -> Path:
        directory = Path(self.prefixes.directory_of(model_id))
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / name
        file.write_bytes(bytes(size))
        os.utime(file, (used_at, used_at))
        return file

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.glob("prefix-cache/*/*"))


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    """An empty one."""
    return Home(tmp_path)


async def test_the_least_recently_used_go_first_whosever_they_are(home: Home) -> None:
    """All models share one bound, and what was used last is kept."""
    home.put("a", "old.prefix", 400, 1.0)
    home.put("a", "new.prefix", 400, 3.0)
    home.put("b", "middle.prefix", 400, 2.0)
    await home.prefixes.trim()
    assert home.names() == ["middle.prefix", "new.prefix"]


async def test_one_that_is_too_large_makes_room_for_others(home: Home) -> None:
    """A file that no bound would hold goes, and the smaller ones stay."""
    home.put("a", "huge.prefix", 5000, 9.0)
    home.put("b", "small.prefix", 400, 1.0)
    await home.prefixes.trim()
    assert home.names() == ["small.prefix"]


async def test_switching_it_off_deletes_everything(home: Home) -> None:
    """Whoever does not want prompts on the disk does not want yesterday's there either; no worker is given a place."""
    home.put("a", "x.prefix", 400, 1.0)
    home.configure(enabled=False)
    await home.prefixes.trim()
    assert home.names() == []
    assert home.prefixes.directory_of("a") == ""


async def test_a_stop_that_saved_is_followed_by_a_trim(home: Home) -> None:
    """The worker keeps to its share, and then all of them to the bound."""
    home.put("a", "old.prefix", 900, 1.0)
    home.put("a", "new.prefix", 900, 2.0)
    home.prefixes.take(Tell("model_loaded", {}))
    home.prefixes.take(Tell("prefixes_saved", {}))
    await asyncio.sleep(0)
    await home.prefixes.clear("somebody else")  # one call at a time: it waits for the trim
    assert home.names() == ["new.prefix"]


async def test_clearing_one_model_leaves_the_others(home: Home) -> None:
    """Its directory goes with everything in it, and how much that was is told."""
    home.put("org/a", "x.prefix", 400, 1.0)
    home.put("org/a", "y.restoring", 100, 1.0)
    home.put("org-a", "z.prefix", 300, 1.0)
    assert await home.prefixes.clear("org/a") == 500
    assert home.names() == ["z.prefix"]
    assert await home.prefixes.clear("org/a") == 0
    assert await home.prefixes.use() == PrefixCacheUse(enabled=True, files=1, bytes=300, bytes_max=1000)
    assert await home.prefixes.clear() == 300
    assert list(home.path.iterdir()) == []


@pytest.mark.parametrize("model_id", ["../../etc", "..", ".", "a/b", "x" * 500, "\u65e5\u672c", "a\0b"])
async def test_no_id_leads_out_of_the_cache(home: Home, model_id: str) -> None:
    """Every model's directory lies directly below it, under a name of its own that any disk can hold."""
    directory = Path(home.prefixes.directory_of(model_id))
    assert directory.parent == home.path / "prefix-cache"
    assert len(directory.name) < 200
    assert directory != Path(home.prefixes.directory_of(model_id + "x"))


async def test_the_end_tidies_up(home: Home) -> None:
    """What a worker did not finish, and directories with nothing left in them, are gone when no worker is left."""
    home.put("a", ".x.prefix.lmx-tmp", 10, 5.0)
    home.put("b", "y.prefix", 10, 5.0)
    await home.prefixes.trim()
    assert len(home.names()) == 2
    await home.prefixes.close()
    assert home.names() == ["y.prefix"]
    assert [path.name[0] for path in (home.path / "prefix-cache").iterdir()] == ["b"]


async def test_a_disk_that_does_not_let_go_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clearing raises what the client is answered; trimming only logs."""
    home.put("a", "x.prefix", 5000, 1.0)

    def refuse(path: object, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(Refusal, match="Permission denied"):
        await home.prefixes.clear("a")
    await home.prefixes.trim()
    assert home.names() == ["x.prefix"]
