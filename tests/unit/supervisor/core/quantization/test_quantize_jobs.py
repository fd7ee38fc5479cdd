"""Quantize jobs as decisions: their queue, their ends, and what each of them leaves."""

from dataclasses import dataclass, field
from itertools import count

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, JobFailed, JobMessage, JobPhase, JobProgress
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.quantization import events as e
from lmx_supervisor.core.quantization.job import TRANSITIONS, IllegalMove, Job, JobState, Task
from lmx_supervisor.core.quantization.machine import QuantizeJobs, QuantizePolicy
from lmx_supervisor.core.quantization.orders import COMBINATIONS, QuantizeJob, copy_name

DONE = JobDone(path="/staging", total_bytes=500)


def task(output: str = "/out/a") -> Task:
    """A copy of `org/a`."""
    return Task("org/a", "/models/org/a", output, f"{output}-staging", 4, 64, "affine", None)


@dataclass
class Driven:
    """The machine with a clock of its own, and everything it has asked for."""

    jobs: QuantizeJobs = field(default_factory=lambda: QuantizeJobs(QuantizePolicy(total_seconds=100, silence_seconds=30)))
    now: float = 1000.0
    shedding: bool = False
    actions: list[e.QuantizeAction] = field(default_factory=list)
    _ids: "count[int]" = field(default_factory=lambda: count(1))

    def post(self, event: e.QuantizeEvent) -> list[e.QuantizeAction]:
        """What one event comes to."""
        out = self.jobs.handle(event, e.Moment(self.now, self.now + 5000, self.shedding))
        self.actions += out
        return out

    def want(self, output: str | None = None) -> str:
        """Ask for a copy, and let what can start do so; returns its id."""
        job_id = f"job-{next(self._ids)}"
        self.post(e.Wanted(job_id, task(output or f"/out/{job_id}")))
        self.post(e.TimePassed())
        return job_id

    def say(self, job_id: str, message: JobMessage) -> None:
        """A word of its process."""
        self.post(e.JobSaid(job_id, message))

    def exit(self, job_id: str, code: int | None = 0, signal: int | None = None) -> list[e.QuantizeAction]:
        """The end of its process."""
        return self.post(e.JobExited(job_id, code if signal is None else None, signal, "it died"))

    def complete(self, job_id: str) -> None:
        """All of a good life."""
        self.say(job_id, DONE)
        self.exit(job_id)
        self.post(e.Promoted(job_id))

    def view(self, job_id: str) -> QuantizeJob:
        """What readers see."""
        view = self.jobs.view(job_id)
        assert view is not None
        return view

    def of(self, kind: type[object]) -> list[object]:
        """The actions of a kind so far."""
        return [action for action in self.actions if isinstance(action, kind)]


@pytest.fixture
def driven() -> Driven:
    """No jobs yet."""
    return Driven()


def test_a_copy_is_made_and_put_in_its_place(driven: Driven) -> None:
    """Queued, running, whole, promoted, completed: nothing is discarded, and the size is known."""
    driven.post(e.Wanted("j", task()))
    assert ("queued", 1) == (driven.view("j").status, driven.view("j").queue_position)
    driven.post(e.TimePassed())
    driven.post(e.Started("j", 42))
    assert ("running", None, 42) == (driven.view("j").status, driven.view("j").queue_position, driven.view("j").worker_pid)
    driven.say("j", JobPhase(phase="quantizing", done_bytes=25, total_bytes=100))
    assert (25.0, "quantizing") == (driven.view("j").progress_percent, driven.view("j").phase)
    driven.say("j", DONE)
    assert [e.Promote("j", task())] == driven.exit("j")
    assert "running" == driven.view("j").status
    driven.now += 2
    driven.post(e.Promoted("j"))
    view = driven.view("j")

    assert ("completed", 100.0, 500, 2.0) == (view.status, view.progress_percent, view.output_size_bytes, view.duration_sec)
    assert (None, None, 0, None) == (view.failure_code, view.error, view.exit_code, view.worker_pid)
    assert [] == driven.of(e.Discard)


def test_one_at_a_time_in_order(driven: Driven) -> None:
    """The second waits for the first, whatever becomes of it; positions count from 1."""
    first, second, third = driven.want(), driven.want(), driven.want()
    assert [1, 2] == [driven.view(job).queue_position for job in (second, third)]
    driven.exit(first, signal=11)
    assert ["failed", "running", "queued"] == [driven.view(job).status for job in (first, second, third)]
    driven.say(second, DONE)
    driven.exit(second)
    assert "queued" == driven.view(third).status, "the second is still being put in its place"
    driven.post(e.Promoted(second))

    assert "running" == driven.view(third).status
    assert 3 == len(driven.of(e.StartJob))


@pytest.mark.parametrize(
    ("word", "code", "signal", "failure", "is_evidence"),
    [
        (JobFailed(code=ErrorCode.NOT_SUPPORTED, message="no"), 0, None, "quantize_failed", False),
        (None, None, 9, "worker_crashed", True),
        (DONE, None, 11, "worker_crashed", True),
        (None, 3, None, "worker_exit_nonzero", True),
        (DONE, 1, None, "worker_exit_nonzero", True),
        (None, 0, None, "worker_payload_invalid", True),
    ],
)
def test_every_bad_end_has_its_code(
    driven: Driven, word: JobMessage | None, code: int | None, signal: int | None, failure: str, is_evidence: bool
) -> None:
    """What the process said and how it left decide; what it made is thrown away, and a death that was none of ours is kept."""
    job_id = driven.want("/out/a")
    if word is not None:
        driven.say(job_id, word)
    driven.exit(job_id, code, signal)
    view = driven.view(job_id)

    assert ("failed", failure, code, signal) == (view.status, view.failure_code, view.exit_code, view.signal)
    assert [e.Discard("/out/a-staging")] == driven.of(e.Discard)
    assert is_evidence == bool(driven.of(e.KeepEvidence))


def test_a_copy_that_finds_its_place_taken(driven: Driven) -> None:
    """It fails with that code, and the copy is thrown away."""
    job_id = driven.want()
    driven.say(job_id, DONE)
    driven.exit(job_id)
    driven.post(e.Promoted(job_id, ("output_path_exists", "there is something")))

    assert ("failed", "output_path_exists") == (driven.view(job_id).status, driven.view(job_id).failure_code)
    assert 1 == len(driven.of(e.Discard))


def test_a_waiting_job_is_cancelled_at_once(driven: Driven) -> None:
    """No process, nothing to discard; a second cancel changes nothing."""
    first, second = driven.want(), driven.want()
    driven.post(e.CancelWanted(second))
    before = driven.view(second)
    driven.now += 1
    driven.post(e.CancelWanted(second))

    assert ("cancelled", "cancelled_by_user", True) == (before.status, before.failure_code, before.cancel_requested)
    assert before == driven.view(second)
    assert [] == driven.of(e.EndJob) == driven.of(e.Discard)
    assert "running" == driven.view(first).status


def test_a_running_job_is_asked_then_made_to_leave(driven: Driven) -> None:
    """SIGTERM, SIGKILL after five seconds, a complaint after two more; the kernel's word ends it."""
    job_id = driven.want("/out/a")
    driven.post(e.Started(job_id, 42))
    driven.post(e.CancelWanted(job_id))
    assert [e.EndJob(job_id, by_force=False)] == driven.of(e.EndJob)
    assert driven.now + limits.QUANTIZE_TERMINATE_SECONDS == driven.jobs.next_deadline()
    driven.now += limits.QUANTIZE_TERMINATE_SECONDS
    driven.post(e.TimePassed())
    driven.now += limits.QUANTIZE_KILL_SECONDS
    told = driven.post(e.TimePassed())
    assert [e.EndJob(job_id, by_force=False), e.EndJob(job_id, by_force=True)] == driven.of(e.EndJob)
    assert ["quantize_does_not_end"] == [action.kind for action in told if isinstance(action, Tell)]
    assert float("inf") == driven.jobs.next_deadline()
    assert "cancelling" == driven.view(job_id).status
    driven.exit(job_id, signal=9)
    view = driven.view(job_id)

    assert ("cancelled", "cancelled_by_user", 9) == (view.status, view.failure_code, view.signal)
    assert view.cancelled_at == view.completed_at == driven.now + 5000
    assert [e.Discard("/out/a-staging")] == driven.of(e.Discard)
    assert [] == driven.of(e.KeepEvidence)


def test_a_job_has_so_much_time(driven: Driven) -> None:
    """At the cap it is asked to leave, then killed, and fails as late; the next one starts."""
    job_id, after = driven.want(), driven.want()
    for _ in range(5):
        driven.now += 20
        driven.say(job_id, JobPhase(phase="quantizing"))
    driven.post(e.TimePassed())
    driven.exit(job_id, signal=15)

    assert [e.EndJob(job_id, by_force=False)] == driven.of(e.EndJob)
    assert ("failed", "worker_timeout") == (driven.view(job_id).status, driven.view(job_id).failure_code)
    assert "quantize.timeout_sec" in str(driven.view(job_id).error)
    assert "running" == driven.view(after).status


def test_a_silent_job_is_killed(driven: Driven) -> None:
    """Silence is no progress; time that this process slept through is no silence."""
    job_id = driven.want()
    driven.now += 40
    driven.post(e.TimePassed(lost_seconds=35))
    assert [] == driven.of(e.EndJob)
    driven.now += 30
    driven.post(e.TimePassed())
    driven.exit(job_id, signal=9)

    assert [e.EndJob(job_id, by_force=True)] == driven.of(e.EndJob)
    assert "worker_timeout" == driven.view(job_id).failure_code


@pytest.mark.parametrize("lie", ["bytes", "progress"])
def test_a_job_that_does_not_make_sense_is_killed(driven: Driven, lie: str) -> None:
    """Bytes that are no message, and messages that are another job's."""
    job_id = driven.want()
    if lie == "bytes":
        driven.post(e.JobMisbehaved(job_id, "a frame of 2 GB"))
    else:
        driven.say(job_id, JobProgress(done_bytes=1, files_done=1))
    driven.exit(job_id, signal=9)

    assert [e.EndJob(job_id, by_force=True)] == driven.of(e.EndJob)
    assert "worker_payload_invalid" == driven.view(job_id).failure_code


def test_nothing_starts_while_memory_is_short(driven: Driven) -> None:
    """It waits, says for what, looks again every second, and starts when there is room."""
    driven.shedding = True
    job_id = driven.want()
    assert ("queued", "waits until the host's memory is less full") == (
        driven.view(job_id).status,
        driven.view(job_id).phase,
    )
    assert driven.now + limits.QUANTIZE_PRESSURE_SECONDS == driven.jobs.next_deadline()
    driven.shedding = False
    driven.now += 1
    driven.post(e.TimePassed())

    assert ("running", None) == (driven.view(job_id).status, driven.view(job_id).phase)


def test_a_stop_ends_everything(driven: Driven) -> None:
    """What runs is killed, what waits fails too, as interrupted; nothing is accepted any more."""
    running, waiting = driven.want("/out/a"), driven.want()
    driven.post(e.StopWanted())
    assert [e.EndJob(running, by_force=True)] == driven.of(e.EndJob)
    driven.exit(running, signal=9)
    late = driven.post(e.Wanted("late", task()))

    assert ["interrupted_by_restart"] * 2 == [driven.view(job).failure_code for job in (running, waiting)]
    assert [ErrorCode.SHUTTING_DOWN] == [action.code for action in late if isinstance(action, e.Declined)]
    assert [e.Discard("/out/a-staging")] == driven.of(e.Discard)
    assert [] == driven.jobs.active() == driven.of(e.KeepEvidence)


def test_a_stop_during_a_cancel(driven: Driven) -> None:
    """It was cancelled, and stays that."""
    job_id = driven.want()
    driven.post(e.CancelWanted(job_id))
    driven.post(e.StopWanted())
    driven.exit(job_id, signal=9)

    assert "cancelled" == driven.view(job_id).status


def test_two_copies_cannot_have_one_place(driven: Driven) -> None:
    """The second is declined with the first one's id; when that is over the place is free again."""
    first = driven.want("/out/a")
    declined = driven.post(e.Wanted("b", task("/out/a")))
    assert [(ErrorCode.OUTPUT_PATH_EXISTS, "output_path")] == [
        (action.code, action.param) for action in declined if isinstance(action, e.Declined)
    ]
    driven.exit(first, signal=9)

    assert [e.Accepted("b")] == [
        action for action in driven.post(e.Wanted("b", task("/out/a"))) if isinstance(action, e.Accepted)
    ]


def test_the_queue_is_bounded(driven: Driven) -> None:
    """Past the bound a wish is declined as too many; ends are forgotten past theirs, the oldest first."""
    for _ in range(limits.QUANTIZE_JOBS_ACTIVE_MAX):
        driven.want()
    declined = driven.post(e.Wanted("one more", task("/out/more")))
    assert [ErrorCode.RATE_LIMIT_EXCEEDED] == [action.code for action in declined if isinstance(action, e.Declined)]
    for _ in range(limits.QUANTIZE_JOBS_KEPT_MAX + 5):
        running = next(job.job_id for job in driven.jobs.active() if job.state is JobState.RUNNING)
        driven.complete(running)
        driven.want()

    assert limits.QUANTIZE_JOBS_KEPT_MAX + limits.QUANTIZE_JOBS_ACTIVE_MAX == len(driven.jobs.views())
    assert driven.jobs.view("job-1") is None


def test_a_process_that_cannot_be_started(driven: Driven) -> None:
    """The job fails with the reason, and the next one is tried."""
    first, second = driven.want(), driven.want()
    driven.post(e.NotStarted(first, "no more processes"))

    assert ("failed", "no more processes") == (driven.view(first).status, driven.view(first).error)
    assert "running" == driven.view(second).status


def test_progress_is_published_often_enough_and_no_oftener(driven: Driven) -> None:
    """At most once a second and per percent; ends always. Status and percent are what subscribers know."""
    job_id = driven.want()
    for done in range(1000):
        driven.now += 0.01
        driven.say(job_id, JobPhase(phase="quantizing", done_bytes=done, total_bytes=1000))
    driven.say(job_id, DONE)
    driven.exit(job_id)
    driven.post(e.Promoted(job_id))
    told = [action.tell.fields for action in driven.actions if isinstance(action, e.Publish)]

    assert 8 <= len(told) <= 12
    assert {"job_id": job_id, "model_id": "org/a", "status": "completed", "percent": 100.0} == told[-1]
    assert all("quantizing" == fields["status"] for fields in told[:-1])


def test_what_is_not_in_the_table_is_a_defect() -> None:
    """Every pair of states that is not allowed raises."""
    for begin in JobState:
        for to in JobState:
            job = Job("j", task(), 0.0, state=begin)
            if (begin, to) in TRANSITIONS:
                job.move(to, 1.0)
            else:
                with pytest.raises(IllegalMove):
                    job.move(to, 1.0)


def test_names_of_copies() -> None:
    """The usual is short, the rest is said, and nothing of an id can lead anywhere."""
    assert "Llama-3-8B-4bit" == copy_name("meta-llama/Llama-3-8B", 4, 64, "affine")
    assert "Llama-3-8B-4bit-g32" == copy_name("meta-llama/Llama-3-8B", 4, 32, "affine")
    assert "m-mxfp8" == copy_name("m", 8, 32, "mxfp8")
    assert "a-b-4bit" == copy_name("x/..a b", 4, 64, "affine")
    assert "model-4bit" == copy_name("org/...", 4, 64, "affine")
    assert {"affine", "mxfp4", "mxfp8", "nvfp4"} == set(COMBINATIONS)
