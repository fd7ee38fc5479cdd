"""What the jobs and loads to come are started with after a reload of a real file, and what befalls a job that runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from lmx_protocol.jobs import FetchModel, JobPhase
from lmx_protocol.states import BackendName, ModelFormat
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.config.load import load_config
from lmx_supervisor.core import backend_choice
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.quantization import events as e
from lmx_supervisor.core.quantization.job import Task
from lmx_supervisor.core.quantization.machine import QuantizeJobs
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.live_config import LiveConfig
from lmx_supervisor.runtime.model_loader import ModelLoader
from lmx_supervisor.runtime.quantizer import quantize_policy
from lmx_supervisor.runtime.supervisor import Supervisor
from tests.unit.supervisor.catalog.model_files import gguf_bytes

ORDER = DownloadOrder(repo_id="org/model")


@pytest.fixture
async def live(tmp_path: Path) -> LiveConfig:
    """The configuration of a home without a file."""
    return LiveConfig(load_config(file=None, flags={}, environ={}, home=tmp_path), lambda _: None)


@pytest.fixture
def reload(live: LiveConfig, tmp_path: Path) -> Callable[..., Any]:
    """Writes the file of the home and has it read."""

    async def write_and_read(text: str) -> tuple[str, ...]:
        (tmp_path / "config.yaml").write_text(text)
        return (await live.reload()).updated

    return write_and_read


@pytest.mark.live_keys(
    "downloads.disk_reserve_bytes",
    "downloads.stall_seconds",
    "downloads.attempts_max",
    "downloads.retry_initial_seconds",
    "downloads.retry_max_seconds",
)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("disk_reserve_bytes", 5),
        ("stall_seconds", 5.0),
        ("attempts_max", 5),
        ("retry_initial_seconds", 5.0),
        ("retry_max_seconds", 5.0),
    ],
)
async def test_the_next_download_is_started_with_the_new_value(
    live: LiveConfig, reload: Callable[..., Any], tmp_path: Path, key: str, value: float
) -> None:
    """Its process gets what is in force when it starts."""
    specs = JobSpecs(tmp_path, lambda: live.config, {})
    before = cast(FetchModel, specs.fetch("dl-1", ORDER).work)
    assert await reload(f"downloads: {{{key}: {value}}}") == (f"downloads.{key}",)
    after = cast(FetchModel, specs.fetch("dl-2", ORDER).work)

    assert getattr(before, key) != value
    assert getattr(after, key) == value


@pytest.mark.live_keys("quantize.timeout_sec")
async def test_a_quantize_job_that_runs_is_held_to_the_new_time(live: LiveConfig, reload: Callable[..., Any]) -> None:
    """With its next word it is ended, because it has run for longer than jobs may now."""
    jobs = QuantizeJobs(quantize_policy(live.config))
    now = 1000.0

    def post(event: e.QuantizeEvent) -> list[e.QuantizeAction]:
        jobs.policy = quantize_policy(live.config)
        return jobs.handle(event, e.Moment(now, now, False))

    post(e.Wanted("job", Task("org/model", "/models/org/model", "/out", "/staging", 4, 64, "affine", None)))
    post(e.TimePassed())
    now += 60.0
    post(e.JobSaid("job", JobPhase(phase="quantizing")))
    before = [action for action in post(e.TimePassed()) if isinstance(action, e.EndJob)]
    assert await reload("quantize: {timeout_sec: 30}") == ("quantize.timeout_sec",)
    post(e.JobSaid("job", JobPhase(phase="quantizing")))
    is_due = jobs.next_deadline() <= now
    after = [action for action in post(e.TimePassed()) if isinstance(action, e.EndJob)]

    assert (before, is_due, after) == ([], True, [e.EndJob("job", by_force=False)])


@pytest.mark.live_keys("models.backend_preference_order")
async def test_the_next_load_goes_to_the_backend_that_is_preferred_now(
    live: LiveConfig, reload: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a format has two backends, which none of ours has yet."""
    both = (BackendName.LLAMACPP, BackendName.MLX)
    monkeypatch.setitem(backend_choice.BACKENDS_OF_FORMAT, ModelFormat.GGUF, both)  # type: ignore[arg-type]  # a dict, in fact
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.gguf").write_bytes(gguf_bytes())
    catalog = Catalog(models, {}, RegisteredModels.read(tmp_path))
    # Nothing is loaded, so nobody needs to supervise it.
    loader = ModelLoader(lambda: live.config, catalog, cast(Supervisor, None), lambda: ())
    before = await loader.backend_of("m")
    assert await reload("models: {backend_preference_order: [mlx-lm]}") == ("models.backend_preference_order",)

    assert (before, await loader.backend_of("m")) == both
