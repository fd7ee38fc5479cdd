"""One running service on one home: the pieces put together, and taken apart again in the right order.

Used by `serve` (our own listener) and by `asgi` (any ASGI server, through its lifespan).
"""

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.hub_cache import hub_cache_directory
from lmx_supervisor.catalog.quantized import DIRECTORY_NAME as QUANTIZED
from lmx_supervisor.catalog.quantized import discard_staging
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.catalog.removal import empty_trash
from lmx_supervisor.catalog.staging_area import put_back_all
from lmx_supervisor.config.load import LoadedConfig, Origin
from lmx_supervisor.config.redact import secret_values
from lmx_supervisor.config.schema import Config, models_directory
from lmx_supervisor.core.downloads.state import Download
from lmx_supervisor.core.events import PeakKnown, ProcessorsCounted, SafeModeKnown
from lmx_supervisor.core.policy import policy_of
from lmx_supervisor.core.startup import StartupDecision, decide_startup
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.observe.logs import set_log_level
from lmx_supervisor.observe.processors import count_processors
from lmx_supervisor.runtime.accesses import AccessKeeper, SavedAccesses, accesses_known, read_accesses
from lmx_supervisor.runtime.atomic_file import ReadDocument, read_document, remove_leftovers
from lmx_supervisor.runtime.boot_sweep import sweep
from lmx_supervisor.runtime.compatibility import CompatibilityRegistry, Registry, read_registry
from lmx_supervisor.runtime.crash_archive import CrashArchive
from lmx_supervisor.runtime.crash_recorder import CrashRecorder
from lmx_supervisor.runtime.downloads_file import DownloadsFile, read_downloads, restored
from lmx_supervisor.runtime.job_room import JobRoom
from lmx_supervisor.runtime.job_specs import hub_secrets
from lmx_supervisor.runtime.journal import Journal
from lmx_supervisor.runtime.journal_setup import journal_settings, kept_logs, session_that_begins
from lmx_supervisor.runtime.live_config import LiveConfig
from lmx_supervisor.runtime.prefix_disk import PrefixDisk
from lmx_supervisor.runtime.preset_shelf import PresetShelf
from lmx_supervisor.runtime.quantize_file import QuantizeFile, SavedJob, left_behind, read_quantize_jobs
from lmx_supervisor.runtime.quantize_file import restored as restored_jobs
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.service import LocalService
from lmx_supervisor.runtime.state_file import FILE_NAME, RuntimeState, SavedWorker, last_run, quarantine_known
from lmx_supervisor.runtime.state_keeper import StateKeeper
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.tuned_profiles import TunedFile, TunedProfiles, read_tuned
from lmx_supervisor.runtime.worker_process import WorkerTiming

log = logging.getLogger("lmx.host")


@dataclass(frozen=True, slots=True)
class Running:
    """What runs."""

    service: LocalService
    supervisor: Supervisor


@dataclass(frozen=True, slots=True)
class _Past:
    """What the home tells of the runs before this one."""

    state: ReadDocument[RuntimeState]
    registry: ReadDocument[Registry]
    downloads: ReadDocument[DownloadsFile]
    accesses: ReadDocument[SavedAccesses]
    quantize_jobs: ReadDocument[QuantizeFile]
    tuned: ReadDocument[TunedFile]
    decision: StartupDecision


@contextlib.asynccontextmanager
async def running_service(
    loaded: LoadedConfig, home: Path, extra_paths: Mapping[str, str], redaction: Redaction
) -> AsyncIterator[Running]:
    """Start supervisor and service on this loop; at the end every worker is stopped and the run directory is gone.

    What an earlier run left behind is dealt with first: its workers are ended, its quarantines are in force again. The last
    step of the end, when nothing failed, is to write down that it was a clean one.

    Args:
        loaded: the configuration in force, and where its values come from.
        home: where registered models, the state and the default models directory lie.
        extra_paths: model id → path, beside those the configuration names.
        redaction: strikes secrets out of events and crash bundles; it learns new ones when the configuration is reloaded.

    Raises:
        RunDirError: the run directory cannot be used.
    """
    config = loaded.config
    directory = models_directory(config, home)
    directory.mkdir(parents=True, exist_ok=True)
    copies = (home / QUANTIZED).absolute()
    copies.mkdir(parents=True, exist_ok=True)
    registered = RegisteredModels.read(home)
    catalog = Catalog(directory, {**config.models.paths, **extra_paths}, registered, hub_cache_directory(os.environ), copies)
    archive = CrashArchive(home / "crashes")
    run_dir = RunDir()
    try:
        past = _look_back(home, loaded, directory, copies)
        prefixes = PrefixDisk(home, lambda: live.config)
        supervisor = Supervisor(policy_of(config), _timing(config, prefixes), run_dir)
        supervisor.post(ProcessorsCounted(count_processors()))
        for saved in past.state.document.quarantine if past.state.document else ():
            supervisor.post(quarantine_known(saved))
        for peak in past.state.document.memory_peaks if past.state.document else ():
            supervisor.post(PeakKnown(peak.digest, peak.bytes))
        supervisor.post(accesses_known(past.accesses.document))
        if past.decision.safe_mode:
            supervisor.post(SafeModeKnown())
        accesses = AccessKeeper(home, supervisor)
        state = StateKeeper(home, supervisor, past.state.document, past.decision, os.getpid())
        registry = CompatibilityRegistry(home, supervisor, past.registry.document.rows if past.registry.document else ())
        supervisor.subscribe(prefixes.take)
        tuned = TunedProfiles(home, past.tuned.document, _complaining_to(supervisor))
        live = LiveConfig(loaded, _applying_to(supervisor, redaction, prefixes))
        recorder = CrashRecorder(archive, redaction.strike)
        supervisor.on_autopsy(recorder.record)
        redaction.learn(hub_secrets(os.environ))
        shelf = PresetShelf(lambda: live.config, home, supervisor)
        room = JobRoom(
            home=home,
            models_directory=directory,
            copies=copies,
            run_dir=run_dir,
            live=live,
            supervisor=supervisor,
            recorder=recorder,
            catalog=catalog,
            registry=registry,
            downloads=_earlier_downloads(past, config),
            quantize_jobs=restored_jobs(_saved_jobs(past), time.time()),
        )
        journal = None
        clean = False
        try:
            # On the disk before anything that could end this run too.
            await state.write_now()
            service = LocalService(
                live,
                catalog,
                supervisor,
                startup=past.decision,
                state=state,
                home=home,
                tuned=tuned,
                registry=registry,
                crashes=archive,
                redaction=redaction,
                downloader=room.downloader,
                looks=room.looks,
                jobs=room.jobs,
                shelf=shelf,
                kept_logs=kept_logs(config, home, os.environ),
                prefixes=prefixes,
            )
            room.quantizer.on_progress = service.events.take
            running = Running(service, supervisor)
            journal = _open_journal(loaded, home, past.decision, running)
            prefixes.trim_soon()
            for found in (
                past.state,
                past.registry,
                past.downloads,
                past.accesses,
                past.tuned,
                past.quantize_jobs,
                registered.found,
            ):
                _tell_if_set_aside(supervisor, found.problem, found.set_aside)
            await shelf.try_reload()
            room.downloader.resume()
            yield running
            clean = not supervisor.unsound.is_set()
        finally:
            await supervisor.drain(live.config.server.drain_seconds)
            await prefixes.close()
            await room.close()
            await registry.close()
            await tuned.close()
            await accesses.close()
            await recorder.close()
            if journal is not None:
                await journal.close("it was stopped in order" if clean else "it had to end")
            await state.close(clean=clean)
    finally:
        run_dir.close()


def _open_journal(loaded: LoadedConfig, home: Path, decision: StartupDecision, running: Running) -> Journal | None:
    if not loaded.config.journaling.enabled:
        return None

    def complain(text: str) -> None:
        running.supervisor.tell("journal_write_failed", text=text, alarming=True)

    settings = journal_settings(loaded.config, home)
    journal = Journal(settings, session_that_begins(loaded, home, decision), complain)
    running.service.events.listen(journal.take)
    return journal


def _look_back(home: Path, loaded: LoadedConfig, models: Path, copies: Path) -> _Past:
    """Read what earlier runs left, and end their workers and jobs. Blocks; nothing is served yet."""
    remove_leftovers(home)
    state, registry, downloads = read_document(home / FILE_NAME, RuntimeState), read_registry(home), read_downloads(home)
    quantize_jobs = read_quantize_jobs(home)
    left: list[SavedWorker] = []
    if state.document is not None:
        left += sweep(state.document.workers, state.document.boot_id)
    if downloads.document is not None:
        left += sweep(downloads.document.jobs, downloads.document.boot_id)
    if quantize_jobs.document is not None:
        left += sweep(quantize_jobs.document.processes, quantize_jobs.document.boot_id)
    for worker in left:
        log.warning("leftover_worker_killed", extra={"pid": worker.pid, "incarnation": worker.incarnation})
    put_back_all(models)
    for root in (models, copies):
        empty_trash(root)
    if quantize_jobs.document is not None:
        for staging in left_behind(quantize_jobs.document.jobs):
            _try_to_discard(staging)
    decision = decide_startup(last_run(state.document), time.time(), nothing_wanted=nothing_wanted(loaded))
    return _Past(state, registry, downloads, read_accesses(home), quantize_jobs, read_tuned(home), decision)


def _try_to_discard(staging: Path) -> None:
    try:
        discard_staging(staging)
    except OSError as error:
        log.warning("quantize_not_discarded", extra={"text": f"{staging} cannot be removed: {error}"})


def _saved_jobs(past: _Past) -> tuple[SavedJob, ...]:
    return past.quantize_jobs.document.jobs if past.quantize_jobs.document is not None else ()


def _earlier_downloads(past: _Past, config: Config) -> list[Download]:
    """What was not over goes on, unless downloads were disabled since, or this start is one of a crash loop."""
    saved = past.downloads.document.downloads if past.downloads.document is not None else ()
    may_resume = config.security.downloads_enabled and not past.decision.crash_loop_detected
    return restored(saved, may_resume=may_resume, now_unix=time.time())


def nothing_wanted(loaded: LoadedConfig) -> bool:
    """Whether the operator emptied the list of models for this very start, as against not having one."""
    for_this_start = loaded.origins["models.auto_load"] in (Origin.ENVIRONMENT, Origin.FLAG)
    return for_this_start and not loaded.config.models.auto_load


def _complaining_to(supervisor: Supervisor) -> Callable[[str], None]:
    """Tells operators that a file could not be written."""
    return lambda text: supervisor.tell("state_write_failed", text=text, alarming=True)


def _tell_if_set_aside(supervisor: Supervisor, problem: str | None, set_aside: Path | None) -> None:
    if problem is not None:
        supervisor.tell("file_set_aside", problem=problem, now_at=str(set_aside), alarming=True)


def _applying_to(supervisor: Supervisor, redaction: Redaction, prefixes: PrefixDisk) -> Callable[[Config], None]:
    """Hands a reloaded configuration to those that keep a copy of it."""

    def apply(config: Config) -> None:
        redaction.learn(secret_values(config))
        supervisor.policy = policy_of(config)
        set_log_level(config.logging.level)
        # Not from this very call: the new configuration is in force when it has returned.
        prefixes.trim_soon()

    return apply


def _timing(config: Config, prefixes: PrefixDisk) -> WorkerTiming:
    return WorkerTiming(
        beat_interval_seconds=config.supervision.beat_interval_seconds,
        c_watchdog_seconds=config.supervision.c_watchdog_seconds,
        prefix_directory_of=prefixes.directory_of,
    )
