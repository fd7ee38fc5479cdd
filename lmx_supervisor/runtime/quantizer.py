"""Performs what `core.quantization` decides: processes, timers, places on the disk, the file that outlives this process.

Everything runs on one loop. Compare `downloader`, whose jobs go on where they were; a quantize job that ends has to start over.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.states import WorkerState
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.quantized import discard_staging, promote
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.actions import Autopsy, Tell
from lmx_supervisor.core.exit_reason import ExitObservation, classify
from lmx_supervisor.core.quantization import events as e
from lmx_supervisor.core.quantization.job import Job, Task
from lmx_supervisor.core.quantization.machine import QuantizeJobs, QuantizePolicy
from lmx_supervisor.core.quantization.orders import QuantizeJob
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.boot_sweep import machine_boot_id, start_time_of
from lmx_supervisor.runtime.job_evidence import job_autopsy
from lmx_supervisor.runtime.job_process import JobProcess
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.quantize_file import FILE_NAME, QuantizeFile, saved_job
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError
from lmx_supervisor.runtime.state_file import SavedWorker
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
        self._run_dir = run_dir
        self._specs = specs
        self._config = config
        self._is_shedding = is_shedding
        self._tell = tell
        self._autopsy = autopsy
        self._jobs = QuantizeJobs(QuantizePolicy(), known)
        self._processes: dict[str, JobProcess] = {}
        self._saved_processes: dict[int, SavedWorker] = {}
        self._last_seen: dict[str, ExitObservation] = {}
        self._started_at: dict[str, float] = {}
        self._declined: dict[str, Refusal] = {}
        self._inbox: deque[e.QuantizeEvent] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
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
            e.EndJob: self._end,
            e.KeepEvidence: self._keep_evidence,
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
        self._post_soon(e.TimePassed())
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
        if self._timer is not None:
            self._timer.cancel()
        await self._file.close()

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def _post_soon(self, event: e.QuantizeEvent) -> None:
        asyncio.get_running_loop().call_soon(self._post, event)

    def _post(self, event: e.QuantizeEvent) -> None:
        """Handle an event now, or right after the one being handled."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                self._jobs.policy = QuantizePolicy(total_seconds=self._config().quantize.timeout_sec)
                now = e.Moment(time.monotonic(), time.time(), self._is_shedding())
                for action in self._jobs.handle(self._inbox.popleft(), now):
                    self._performers[type(action)](action)
        finally:
            self._handling = False
        self._after()

    def _after(self) -> None:
        self._file.changed()
        self._note_idleness()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._jobs.next_deadline()
        if deadline != float("inf"):
            self._timer = asyncio.get_running_loop().call_at(deadline, self._wake, deadline)

    def _note_idleness(self) -> None:
        (self._idle.clear if self._jobs.active() or self._disk_work else self._idle.set)()

    def _wake(self, deadline: float) -> None:
        late_seconds = time.monotonic() - deadline
        # The process was stopped or the machine slept: what a job said meanwhile is still to be read.
        self._post(e.TimePassed(late_seconds if late_seconds >= limits.CLOCK_GAP_SECONDS else 0.0))

    # --- performing actions -------------------------------------------------------------------------------------------------

    def _decline(self, action: e.Declined) -> None:
        self._declined[action.job_id] = Refusal(action.code, action.message, param=action.param)

    def _start(self, action: e.StartJob) -> None:
        job_id = action.job_id
        name = f"quantize-{job_id}"
        try:
            process = JobProcess(
                self._specs.quantize(name, action.task),
                self._run_dir,
                on_message=lambda message: self._post(e.JobSaid(job_id, message)),
                on_violation=lambda detail: self._post(e.JobMisbehaved(job_id, detail)),
                on_exit=lambda observation: self._exited(job_id, observation),
            )
        except (OSError, RunDirError, ProtocolViolation) as error:
            self._post(e.NotStarted(job_id, f"Its process could not be started: {error}."))
            return
        self._processes[job_id] = process
        self._started_at[job_id] = time.monotonic()
        start_time = start_time_of(process.pid)
        if start_time is not None:
            self._saved_processes[process.pid] = SavedWorker(pid=process.pid, start_time=start_time, incarnation=name)
        self._post(e.Started(job_id, process.pid))

    def _end(self, action: e.EndJob) -> None:
        # It may have ended, with its exit still to be handled.
        process = self._processes.get(action.job_id)
        if process is not None:
            process.kill() if action.by_force else process.terminate()

    def _exited(self, job_id: str, observation: ExitObservation) -> None:
        self._saved_processes.pop(self._processes.pop(job_id).pid, None)
        self._last_seen[job_id] = observation
        text = classify(observation, state=WorkerState.BUSY, cause=None).text
        self._post(e.JobExited(job_id, observation.code, observation.signal_number, f"Its process died: {text}."))
        self._last_seen.pop(job_id, None)

    def _keep_evidence(self, action: e.KeepEvidence) -> None:
        seen = self._last_seen[action.job_id]
        uptime_seconds = time.monotonic() - self._started_at[action.job_id]
        self._autopsy(job_autopsy("quantize", action.model_id, seen, uptime_seconds))

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
            processes=tuple(self._saved_processes.values()),
        )
        # Without any job ever there is nothing to write down.
        known = written if written is not None else QuantizeFile(boot_id=document.boot_id)
        return None if msgspec.structs.replace(document, saved_at=known.saved_at) == known else document

    def _complain(self, text: str) -> None:
        self._tell(Tell("state_write_failed", {"text": text}, alarming=True))
