"""All quantize jobs of this machine. `handle` is the one way to change them.

One runs at a time, in the order in which they were asked for, and none starts while the host's memory is nearly used up.
Nothing is tried again by itself. Only the kernel's word that a process is gone ends what it did.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, JobFailed, JobMessage, JobPhase
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.quantization import events as e
from lmx_supervisor.core.quantization.job import HAS_PROCESS, Job, JobState
from lmx_supervisor.core.quantization.orders import FailureCode, QuantizeJob

_NEVER = float("inf")
_WAITS_FOR_MEMORY = "waits until the host's memory is less full"
INTERRUPTED: tuple[FailureCode, str] = (
    "interrupted_by_restart",
    "The service was stopped or restarted meanwhile. Nothing of the copy was kept; ask for it again.",
)


@dataclass(frozen=True, slots=True)
class QuantizePolicy:
    """The numbers."""

    total_seconds: float = limits.QUANTIZE_SECONDS
    silence_seconds: float = limits.JOB_SILENCE_SECONDS


class QuantizeJobs:
    """The one mutator."""

    def __init__(self, policy: QuantizePolicy, known: Iterable[Job] = ()) -> None:
        """`known`: of an earlier life, all of them over."""
        self.policy = policy
        self._all = {job.job_id: job for job in known}
        self._stopping = False
        self._out: list[e.QuantizeAction] = []
        self._handlers: dict[type[e.QuantizeEvent], Callable[[Any, e.Moment], None]] = {
            e.Wanted: self._wanted,
            e.CancelWanted: self._cancel,
            e.StopWanted: self._stop,
            e.Started: self._started,
            e.NotStarted: lambda event, now: self._failed(self._all[event.job_id], "worker_crashed", event.detail, now),
            e.JobSaid: self._said,
            e.JobMisbehaved: self._misbehaved,
            e.JobExited: self._exited,
            e.Promoted: self._promoted,
            e.TimePassed: self._time_passed,
        }

    def handle(self, event: e.QuantizeEvent, now: e.Moment) -> list[e.QuantizeAction]:
        """Take one event; what is to be done about it."""
        self._handlers[type(event)](event, now)
        # A wish is answered before its job starts: whoever made it sees it queued first.
        if not isinstance(event, e.Wanted):
            self._start_next(now)
        self._forget_oldest()
        out, self._out = self._out, []
        return out

    # --- for readers --------------------------------------------------------------------------------------------------------

    def views(self) -> list[QuantizeJob]:
        """Every job that is remembered, the newest first."""
        return [self._view(job) for job in reversed(self._all.values())]

    def view(self, job_id: str) -> QuantizeJob | None:
        """One of them."""
        job = self._all.get(job_id)
        return self._view(job) if job is not None else None

    def records(self) -> tuple[Job, ...]:
        """For the disk, the newest last."""
        return tuple(self._all.values())

    def active(self) -> list[Job]:
        """Those that are not over, in their order."""
        return [job for job in self._all.values() if not job.is_over]

    def next_deadline(self) -> float:
        """When `TimePassed` is due, by the monotonic clock; infinity while nothing waits for it."""
        return min((self._deadline(job) for job in self._all.values()), default=_NEVER)

    def _view(self, job: Job) -> QuantizeJob:
        place = [queued.job_id for queued in self._queued()].index(job.job_id) + 1 if job.state is JobState.QUEUED else None
        return job.view(place)

    def _queued(self) -> list[Job]:
        return [job for job in self._all.values() if job.state is JobState.QUEUED]

    def _deadline(self, job: Job) -> float:
        if job.state not in HAS_PROCESS:
            return job.look_again_at
        if job.ending is not None:
            return min(_NEVER if job.kill_at is None else job.kill_at, _NEVER if job.complain_at is None else job.complain_at)
        return min(job.heard_at + self.policy.silence_seconds, job.running_since + self.policy.total_seconds)

    # --- orders -------------------------------------------------------------------------------------------------------------

    def _wanted(self, event: e.Wanted, now: e.Moment) -> None:
        active = self.active()
        if self._stopping:
            self._out.append(e.Declined(event.job_id, ErrorCode.SHUTTING_DOWN, "The service is stopping."))
            return
        if len(active) >= limits.QUANTIZE_JOBS_ACTIVE_MAX:
            text = f"{len(active)} quantize jobs run or wait, which is all there may be; cancel one first."
            self._out.append(e.Declined(event.job_id, ErrorCode.RATE_LIMIT_EXCEEDED, text))
            return
        same = next((job for job in active if job.task.output_path == event.task.output_path), None)
        if same is not None:
            text = f"Job {same.job_id} is about to write {event.task.output_path}; wait for it, or choose another output_path."
            self._out.append(e.Declined(event.job_id, ErrorCode.OUTPUT_PATH_EXISTS, text, "output_path"))
            return
        job = Job(event.job_id, event.task, created_at=now.unix, updated_at=now.unix)
        self._all[job.job_id] = job
        self._out.append(e.Accepted(job.job_id))
        self._tell("quantize_queued", job, bits=job.task.bits, group_size=job.task.group_size, mode=job.task.mode)

    def _cancel(self, event: e.CancelWanted, now: e.Moment) -> None:
        job = self._all[event.job_id]
        if job.is_over or job.cancel_requested_at is not None:
            return
        job.cancel_requested_at = job.updated_at = now.unix
        text = "It was cancelled, as somebody asked."
        if job.state is JobState.QUEUED:
            self._cancelled(job, ("cancelled_by_user", text), now)
        elif job.state is JobState.RUNNING:
            job.move(JobState.CANCELLING, now.unix)
            self._end(job, ("cancelled_by_user", text), now)
            self._tell_progress(job, "cancelling", now)

    def _stop(self, _: e.StopWanted, now: e.Moment) -> None:
        self._stopping = True
        for job in self.active():
            if job.state is JobState.QUEUED:
                self._failed(job, *INTERRUPTED, now)
            elif job.state in HAS_PROCESS:
                job.ending = job.ending or INTERRUPTED
                job.kill_at = job.complain_at = None
                # What it leaves is thrown away in any case, and the service wants to leave.
                self._out.append(e.EndJob(job.job_id, by_force=True))

    # --- processes ----------------------------------------------------------------------------------------------------------

    def _start_next(self, now: e.Moment) -> None:
        queued = self._queued()
        if not queued or self._stopping or any(job.state in HAS_PROCESS or _is_promoting(job) for job in self._all.values()):
            return
        job = queued[0]
        if now.shedding:
            job.phase, job.look_again_at = _WAITS_FOR_MEMORY, now.monotonic + limits.QUANTIZE_PRESSURE_SECONDS
            return
        job.move(JobState.RUNNING, now.unix)
        job.phase, job.look_again_at = None, _NEVER
        job.started_at = now.unix
        job.running_since = job.heard_at = now.monotonic
        self._out.append(e.StartJob(job.job_id, job.task))
        self._tell("quantize_started", job)

    def _started(self, event: e.Started, _: e.Moment) -> None:
        self._all[event.job_id].pid = event.pid

    def _said(self, event: e.JobSaid, now: e.Moment) -> None:
        job = self._all[event.job_id]
        job.heard_at = now.monotonic
        self._note(job, event.message, now)

    def _note(self, job: Job, message: JobMessage, now: e.Moment) -> None:
        match message:
            case JobPhase():
                job.phase = message.phase
                if message.total_bytes:
                    job.percent = min(99.0, 100.0 * message.done_bytes / message.total_bytes)
                if job.state is JobState.RUNNING:
                    self._tell_progress(job, "quantizing", now, seldom=True)
            case JobDone() | JobFailed():
                job.outcome = job.outcome or message
            case _:
                self._kill_for(job, ("worker_payload_invalid", "It sent what no quantize job says."), now)

    def _misbehaved(self, event: e.JobMisbehaved, now: e.Moment) -> None:
        self._kill_for(self._all[event.job_id], ("worker_payload_invalid", event.detail), now)

    def _kill_for(self, job: Job, why: tuple[FailureCode, str], now: e.Moment) -> None:
        if job.state is JobState.RUNNING and job.ending is None:
            job.ending = why
            job.complain_at = now.monotonic + limits.QUANTIZE_KILL_SECONDS
            self._out.append(e.EndJob(job.job_id, by_force=True))

    def _end(self, job: Job, why: tuple[FailureCode, str], now: e.Moment) -> None:
        job.ending = why
        job.kill_at = now.monotonic + limits.QUANTIZE_TERMINATE_SECONDS
        self._out.append(e.EndJob(job.job_id, by_force=False))

    def _exited(self, event: e.JobExited, now: e.Moment) -> None:
        job = self._all[event.job_id]
        job.exit_code, job.signal_number, job.pid = event.exit_code, event.signal_number, None
        job.kill_at = job.complain_at = None
        if job.ending is not None:
            self._ended(job, job.ending, now)
        elif isinstance(job.outcome, JobDone) and event.exit_code == 0:
            job.output_bytes = job.outcome.total_bytes
            job.move(JobState.PROMOTING, now.unix)
            self._out.append(e.Promote(job.job_id, job.task))
        elif isinstance(job.outcome, JobFailed):
            self._failed(job, "quantize_failed", job.outcome.message, now)
        else:
            self._out.append(e.KeepEvidence(job.job_id, job.task.source_model))
            code: FailureCode = "worker_payload_invalid" if event.exit_code == 0 else "worker_exit_nonzero"
            self._failed(job, "worker_crashed" if event.signal_number is not None else code, event.detail, now)

    def _ended(self, job: Job, why: tuple[FailureCode, str], now: e.Moment) -> None:
        if job.state is JobState.CANCELLING and why[0] == "cancelled_by_user":
            self._cancelled(job, why, now)
        else:
            self._failed(job, *why, now)

    def _promoted(self, event: e.Promoted, now: e.Moment) -> None:
        job = self._all[event.job_id]
        if event.failure is not None:
            self._failed(job, *event.failure, now)
            return
        job.move(JobState.COMPLETED, now.unix)
        job.percent = 100.0
        self._tell_progress(job, "completed", now)
        self._tell("quantize_completed", job, output_path=job.task.output_path, output_size_bytes=job.output_bytes)

    def _time_passed(self, event: e.TimePassed, now: e.Moment) -> None:
        for job in self._all.values():
            if job.state not in HAS_PROCESS:
                continue
            job.heard_at += event.lost_seconds
            job.running_since += event.lost_seconds
            if job.ending is None:
                self._end_what_is_late(job, now)
            elif job.kill_at is not None and now.monotonic >= job.kill_at:
                job.kill_at, job.complain_at = None, now.monotonic + limits.QUANTIZE_KILL_SECONDS
                self._out.append(e.EndJob(job.job_id, by_force=True))
            elif job.complain_at is not None and now.monotonic >= job.complain_at:
                job.complain_at = None
                self._tell("quantize_does_not_end", job, alarming=True, pid=job.pid)

    def _end_what_is_late(self, job: Job, now: e.Moment) -> None:
        silent_seconds = now.monotonic - job.heard_at
        if now.monotonic - job.running_since >= self.policy.total_seconds:
            text = f"It was not done after {self.policy.total_seconds:g} s; raise quantize.timeout_sec for such a model."
            self._end(job, ("worker_timeout", text), now)
        elif silent_seconds >= self.policy.silence_seconds:
            self._kill_for(job, ("worker_timeout", f"Its process said nothing for {silent_seconds:.0f} s."), now)

    # --- ends ---------------------------------------------------------------------------------------------------------------

    def _failed(self, job: Job, code: FailureCode, text: str, now: e.Moment) -> None:
        self._discard(job)
        job.move(JobState.FAILED, now.unix)
        job.failure_code, job.error = code, text
        self._tell_progress(job, f"failed: {text}", now)
        self._tell("quantize_failed", job, alarming=True, failure_code=code, error=text)

    def _cancelled(self, job: Job, why: tuple[FailureCode, str], now: e.Moment) -> None:
        self._discard(job)
        job.move(JobState.CANCELLED, now.unix)
        job.failure_code, job.error = why
        self._tell_progress(job, "cancelled", now)
        self._tell("quantize_cancelled", job)

    def _discard(self, job: Job) -> None:
        if job.state is not JobState.QUEUED:
            self._out.append(e.Discard(job.task.staging_path))

    def _forget_oldest(self) -> None:
        over = [job.job_id for job in self._all.values() if job.is_over]
        for job_id in over[: max(0, len(over) - limits.QUANTIZE_JOBS_KEPT_MAX)]:
            del self._all[job_id]

    # --- telling ------------------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, job: Job, *, alarming: bool = False, **fields: object) -> None:
        self._out.append(Tell(kind, {"job_id": job.job_id, "model_id": job.task.source_model, **fields}, alarming))

    def _tell_progress(self, job: Job, status: str, now: e.Moment, *, seldom: bool = False) -> None:
        """Often enough to watch, seldom enough not to push everything else out of the events that are kept."""
        if seldom and job.told_at is not None:
            since = now.monotonic - job.told_at
            if since < limits.QUANTIZE_TELL_SECONDS or job.percent - job.told_percent < limits.QUANTIZE_TELL_PERCENT:
                return
        job.told_at, job.told_percent = now.monotonic, job.percent
        fields: dict[str, object] = {
            "job_id": job.job_id,
            "model_id": job.task.source_model,
            "status": status,
            "percent": round(job.percent, 1),
        }
        self._out.append(e.Publish(Tell("quantize_progress", fields)))


def _is_promoting(job: Job) -> bool:
    return job.state is JobState.PROMOTING
