"""Performs what `core.quantization` decides: processes, timers, places on the disk, the file that outlives this process.

Everything runs on one loop. Compare `downloader`, whose jobs go on where they were; a quantize job that ends has to start over.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.quantized import discard_staging, promote
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.actions import Autopsy, Tell
from lmx_supervisor.core.quantization import events as e
from lmx_supervisor.core.quantization.job import Job, Task
from lmx_supervisor.core.quantization.machine import QuantizeJobs, QuantizePolicy
from lmx_supervisor.core.quantization.orders import QuantizeJob
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.boot_sweep import machine_boot_id
from lmx_supervisor.runtime.job_loop import JobLoop, JobProcesses
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.quantize_file import FILE_NAME, QuantizeFile, saved_job
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError
from lmx_supervisor.runtime.write_behind import WriteBehind


class Quantizer:
    """The quantize jobs of one service. Create it on a running loop; end it with `close`."""

    def __init__(
        self,
        *,
        home: Path,
        run_dir: RunDir,
        specs: JobSpecs,
        config: Callable[[], Config],
        is_shedding: Callable[[], bool],
        tell: Callable[[Tell], None],
        autopsy: Callable[[Autopsy], None],
        known: list[Job],
    ) -> None:
        """`config`: the one in force. `tell`, `autopsy`: take what operators are told, and the deaths of jobs."""
        self._specs = specs
        self._config = config
        self._is_shedding = is_shedding
        self._tell = tell
        self._jobs = QuantizeJobs(QuantizePolicy(), known)
        self._processes = JobProcesses("quantize", run_dir)
        self._declined: dict[str, Refusal] = {}
        self._loop: JobLoop[e.QuantizeEvent] = JobLoop(
            self._handle, e.TimePassed, next_deadline=self._jobs.next_deadline, after=self._after
        )
        self._post = self._loop.post
        self._disk = DiskCalls(at_once=1, seconds=limits.DELETE_SECONDS)
        self._disk_work: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._file = WriteBehind(home / FILE_NAME, self._compose, self._complain)
        self.on_progress: Callable[[Tell], None] = lambda _: None
        """Takes what is for subscribers only."""
        self._performers: dict[type[e.QuantizeAction], Callable[[Any], None]] = {
            e.Accepted: lambda _: None,
            e.Declined: self._decline,
            e.StartJob: self._start,
            e.EndJob: lambda action: self._processes.end(action.job_id, by_force=action.by_force),
            e.KeepEvidence: lambda action: autopsy(self._processes.autopsy(action.job_id, action.model_id)),
            e.Promote: lambda action: self._work(self._promote(action)),
            e.Discard: lambda action: self._work(self._discard(action)),
            e.Publish: lambda action: self.on_progress(action.tell),
            Tell: tell,
        }
        self._after()

    # --- what others may ask ------------------------------------------------------------------------------------------------

    def views(self) -> list[QuantizeJob]:
        """All jobs that are remembered, the newest first."""
        return self._jobs.views()

    def view(self, job_id: str) -> QuantizeJob:
        """One of them. Raises `Refusal` JOB_NOT_FOUND."""
        view = self._jobs.view(job_id)
        if view is None:
            shown = job_id[: limits.MODEL_ID_CHARACTERS_MAX]
            text = f"There is no quantize job '{shown}'; GET /admin/quantize lists them."
            raise Refusal(ErrorCode.JOB_NOT_FOUND, text, param="job_id")
        return view

    def tasks(self) -> list[tuple[str, Task]]:
        """Job and task of every job that is not over."""
        return [(job.job_id, job.task) for job in self._jobs.active()]

    def want(self, task: Task, job_id: str) -> QuantizeJob:
        """Have a copy made. Raises `Refusal`."""
        self._post(e.Wanted(job_id, task))
        refusal = self._declined.pop(job_id, None)
        if refusal is not None:
            raise refusal
        accepted = self.view(job_id)
        # Its turn may be now, but not before it was answered.
        asyncio.get_running_loop().call_soon(self._post, e.TimePassed())
        return accepted

    def cancel(self, job_id: str) -> QuantizeJob:
        """Have a job ended; one whose process runs is `cancelling` until that is gone. Raises `Refusal`."""
        self.view(job_id)
        self._post(e.CancelWanted(job_id))
        return self.view(job_id)

    async def close(self) -> None:
        """End every job. Returns when no process of ours is left, nor anything of an unfinished copy."""
        self._post(e.StopWanted())
        await self._idle.wait()
        self._loop.close()
        await self._file.close()

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def _handle(self, event: e.QuantizeEvent) -> None:
        self._jobs.policy = quantize_policy(self._config())
        for action in self._jobs.handle(event, e.Moment(time.monotonic(), time.time(), self._is_shedding())):
            self._performers[type(action)](action)

    def _after(self) -> None:
        self._file.changed()
        self._note_idleness()

    def _note_idleness(self) -> None:
        (self._idle.clear if self._jobs.active() or self._disk_work else self._idle.set)()

    # --- performing actions -------------------------------------------------------------------------------------------------

    def _decline(self, action: e.Declined) -> None:
        self._declined[action.job_id] = Refusal(action.code, action.message, param=action.param)

    def _start(self, action: e.StartJob) -> None:
        job_id = action.job_id
        try:
            pid = self._processes.start(
                job_id,
                self._specs.quantize(f"quantize-{job_id}", action.task),
                on_message=lambda message: self._post(e.JobSaid(job_id, message)),
                on_violation=lambda detail: self._post(e.JobMisbehaved(job_id, detail)),
                on_exit=lambda seen, text: self._post(
                    e.JobExited(job_id, seen.code, seen.signal_number, f"Its process died: {text}.")
                ),
            )
        except (OSError, RunDirError, ProtocolViolation) as error:
            self._post(e.NotStarted(job_id, f"Its process could not be started: {error}."))
        else:
            self._post(e.Started(job_id, pid))

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._disk_work.add(task)
        task.add_done_callback(self._work_done)

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._disk_work.discard(task)
        self._note_idleness()

    async def _promote(self, action: e.Promote) -> None:
        staging, output = Path(action.task.staging_path), Path(action.task.output_path)
        try:
            await self._disk.run(partial(promote, staging, output))
        except Refusal as refusal:
            exists = refusal.code is ErrorCode.OUTPUT_PATH_EXISTS
            failure: Any = ("output_path_exists" if exists else "quantize_failed", refusal.message)
            self._post(e.Promoted(action.job_id, failure))
        except OSError as error:
            text = f"The copy could not be put at {output}: {error.strerror or error}."
            self._post(e.Promoted(action.job_id, ("quantize_failed", text)))
        else:
            self._post(e.Promoted(action.job_id))

    async def _discard(self, action: e.Discard) -> None:
        try:
            await self._disk.run(partial(discard_staging, Path(action.staging_path)))
        except (OSError, Refusal) as error:
            text = f"{action.staging_path} cannot be removed: {error}"
            self._tell(Tell("quantize_not_discarded", {"text": text}, alarming=True))

    # --- the file -----------------------------------------------------------------------------------------------------------

    def _compose(self, written: QuantizeFile | None) -> QuantizeFile | None:
        document = QuantizeFile(
            saved_at=time.time(),
            boot_id=machine_boot_id(),
            jobs=tuple(saved_job(job) for job in self._jobs.records()),
            processes=self._processes.saved(),
        )
        # Without any job ever there is nothing to write down.
        known = written if written is not None else QuantizeFile(boot_id=document.boot_id)
        return None if msgspec.structs.replace(document, saved_at=known.saved_at) == known else document

    def _complain(self, text: str) -> None:
        self._tell(Tell("state_write_failed", {"text": text}, alarming=True))


def quantize_policy(config: Config) -> QuantizePolicy:
    """The numbers that a configuration asks for."""
    return QuantizePolicy(total_seconds=config.quantize.timeout_sec)
