"""One running service on one home: the pieces put together, and taken apart again in the right order.

Used by `serve` (our own listener) and by `asgi` (any ASGI server, through its lifespan).
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.config.schema import Config, models_directory
from lmx_supervisor.core.policy import policy_of
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.service import LocalService
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.worker_process import WorkerTiming


@dataclass(frozen=True, slots=True)
class Running:
    """What runs."""

    service: LocalService
    supervisor: Supervisor


@contextlib.asynccontextmanager
async def running_service(config: Config, home: Path, extra_paths: Mapping[str, str]) -> AsyncIterator[Running]:
    """Start supervisor and service on this loop; at the end every worker is stopped and the run directory is gone.

    Args:
        config: the configuration in force.
        home: where registered models and the default models directory lie.
        extra_paths: model id → path, beside those the configuration names.

    Raises:
        RunDirError: the run directory cannot be used.
    """
    directory = models_directory(config, home)
    directory.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(directory, {**config.models.paths, **extra_paths}, RegisteredModels.read(home))
    timing = WorkerTiming(
        beat_interval_seconds=config.supervision.beat_interval_seconds,
        c_watchdog_seconds=config.supervision.c_watchdog_seconds,
    )
    run_dir = RunDir()
    try:
        supervisor = Supervisor(policy_of(config), timing, run_dir)
        try:
            yield Running(LocalService(config, catalog, supervisor), supervisor)
        finally:
            await supervisor.drain(config.server.drain_seconds)
    finally:
        run_dir.close()
