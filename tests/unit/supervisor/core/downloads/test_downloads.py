"""The decisions about downloads: every promise in one sentence, on a clock of the test's own."""

import itertools

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, JobFailed, JobPlanned, JobProgress
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.downloads import actions as a
from lmx_supervisor.core.downloads import events as e
from lmx_supervisor.core.downloads.machine import DownloadPolicy, Downloads
from lmx_supervisor.core.downloads.orders import DownloadOrder, DownloadView
from lmx_supervisor.core.downloads.state import OVER, TRANSITIONS, Download, DownloadState, IllegalMove
from lmx_supervisor.core.load_profile import LoadProfile
from lmx_supervisor.core.service import LoadOrder

DONE = JobDone(path="/models/org/a", total_bytes=100)
POLICY = DownloadPolicy(at_once=2, deaths_max=2, retry_initial_seconds=1.0, retry_max_seconds=60.0, silence_seconds=60.0)


class Stage:
    """Downloads under a clock that only the test moves."""

    def __init__(self, policy: DownloadPolicy = POLICY, known: list[Download] | None = None) -> None:
        self.downloads = Downloads(policy, known or [])
        self.now = 1000.0
        self.actions: list[a.DownloadAction] = []
        self._numbers = itertools.count(1)

    def post(self, event: e.DownloadEvent, after: float = 0.0) -> list[a.DownloadAction]:
        """One event, `after` seconds later; what it led to."""
        self.now += after
        actions = self.downloads.handle(event, e.Moment(self.now, 1_700_000_000.0 + self.now))
        self.actions += actions
        return actions

    def want(self, repo_id: str = "org/a", then_load: LoadOrder | None = None, **fields: object) -> str:
        """Order a download; returns its id, or the code of the refusal."""
        number = next(self._numbers)
        order = DownloadOrder(repo_id=repo_id, **fields)  # type: ignore[arg-type]
        actions = self.post(e.Wanted(f"order-{number}", f"dl-{number}", order, 100, then_load))
        answer = next(action for action in actions if isinstance(action, a.Accepted | a.Declined))
        return answer.download_id if isinstance(answer, a.Accepted) else answer.code

    def view(self, download_id: str) -> DownloadView:
        """One download."""
        view = self.downloads.view(download_id)
        assert view is not None
        return view

    def started(self) -> list[str]:
        """The downloads that processes were started for, in order."""
        return [action.download_id for action in self.actions if isinstance(action, a.StartJob)]

    def told(self, kind: str) -> list[dict[str, object]]:
        """What operators were told of that kind."""
        return [action.fields for action in self.actions if isinstance(action, Tell) and action.kind == kind]


def test_a_download_from_order_to_arrival() -> None:
    """It starts at once, shows what its process says, and is completed when the process has left with the work done."""
    stage = Stage()
    download = stage.want()
    stage.post(e.JobSaid(download, JobPlanned(commit="c", total_bytes=100, missing_bytes=100, free_bytes=999, files=2)))
    stage.post(e.JobSaid(download, JobProgress(done_bytes=0, files_done=0)))
    stage.post(e.JobSaid(download, JobProgress(done_bytes=50, files_done=1)), after=2.0)
    half = stage.view(download)
    stage.post(e.JobSaid(download, DONE))
    assert stage.view(download).status == "downloading"
    stage.post(e.JobExited(download, "left"), after=1.0)
    end = stage.view(download)

    assert (half.status, half.progress_percent, half.bytes_per_second, half.eta_seconds) == ("downloading", 50.0, 25.0, 2.0)
    assert (end.status, end.progress_percent, end.local_path, end.files_completed) == ("completed", 100.0, "/models/org/a", 2)
    assert stage.told("download_completed")[0]["duration_seconds"] == 3.0


def test_equal_orders_are_one_download() -> None:
    """A second order for the same thing joins the first; one for other files of it is another download."""
    stage = Stage()
    first = stage.want()

    assert stage.want() == first
    assert stage.want(allow_patterns=("*.gguf",)) != first
    assert stage.started() == [first]


def test_one_at_a_time_per_repository_and_a_bound_for_all() -> None:
    """Downloads of one repository wait for each other, and no more run than the policy says; the rest is pending."""
    stage = Stage()
    first, second, third, fourth = (stage.want("org/a", revision=f"r{n}") for n in range(4))
    other, more = stage.want("org/b"), stage.want("org/c")
    assert stage.started() == [first, other]
    assert stage.view(more).status == stage.view(second).status == "pending"
    stage.post(e.JobSaid(first, DONE))
    stage.post(e.JobExited(first, "left"))

    assert stage.started() == [first, other, second]
    assert stage.view(third).status == stage.view(fourth).status == "pending"


def test_too_many_are_declined() -> None:
    """What waits is bounded."""
    stage = Stage()
    for number in range(limits.DOWNLOADS_ACTIVE_MAX):
        stage.want(f"org/m{number}")

    assert stage.want("org/last") == ErrorCode.RATE_LIMIT_EXCEEDED
    assert stage.want("org/m0") == "dl-1"


def test_a_death_is_followed_by_another_attempt() -> None:
    """A process that dies is started again after a growing wait, with its evidence kept; too many deaths end it."""
    stage = Stage()
    download = stage.want()
    stage.post(e.JobExited(download, "killed"))
    assert stage.view(download).status == "downloading"
    assert "killed" in (stage.view(download).trouble or "")
    assert stage.downloads.next_deadline() == stage.now + 1.0
    stage.post(e.TimePassed(), after=0.9)
    assert stage.started() == [download]
    stage.post(e.TimePassed(), after=0.1)
    assert stage.started() == [download] * 2
    stage.post(e.JobExited(download, "killed"))
    stage.post(e.TimePassed(), after=2.0)
    assert stage.started() == [download] * 3
    stage.post(e.JobExited(download, "killed"))
    end = stage.view(download)

    assert (end.status, end.error_code, end.attempts) == ("failed", ErrorCode.DOWNLOAD_FAILED, 3)
    assert sum(isinstance(action, a.KeepEvidence) for action in stage.actions) == 3
    assert stage.downloads.next_deadline() == float("inf")


def test_a_process_that_cannot_be_started() -> None:
    """It counts as a death, without evidence to keep."""
    stage = Stage()
    download = stage.want()
    stage.post(e.NotStarted(download, "no more processes"))

    assert "no more processes" in (stage.view(download).trouble or "")
    assert not any(isinstance(action, a.KeepEvidence) for action in stage.actions)


def test_a_failure_is_believed() -> None:
    """A process that says that it cannot be done is not started again, and its reason is shown."""
    stage = Stage()
    download = stage.want()
    stage.post(e.JobSaid(download, JobFailed(code=ErrorCode.DOWNLOAD_CORRUPT, message="wrong hash")))
    stage.post(e.JobExited(download, "left"))
    end = stage.view(download)

    assert (end.status, end.error_code, end.error) == ("failed", ErrorCode.DOWNLOAD_CORRUPT, "wrong hash")
    assert stage.told("download_failed")[0]["error"] == "wrong hash"
    assert stage.want() != download


def test_cancelling_what_runs() -> None:
    """The process is killed; only its exit makes the download cancelled, discards what has come, and frees its place."""
    stage = Stage(DownloadPolicy(at_once=1))
    first, second = stage.want("org/a"), stage.want("org/b")
    actions = stage.post(e.CancelWanted(first))
    assert a.KillJob(first) in actions
    assert stage.view(first).completed_at is None
    assert stage.started() == [first]
    actions = stage.post(e.JobExited(first, "killed"))

    assert a.DiscardParts("org/a") in actions
    assert stage.view(first).status == "cancelled"
    assert stage.started() == [first, second]
    assert not any(isinstance(action, a.KeepEvidence) for action in stage.actions)


@pytest.mark.parametrize("waiting", ["queued", "backing off"])
def test_cancelling_what_waits(waiting: str) -> None:
    """Without a process it is over at once."""
    stage = Stage(DownloadPolicy(at_once=1))
    first, second = stage.want("org/a"), stage.want("org/b")
    if waiting == "backing off":
        stage.post(e.JobExited(first, "killed"))
    download = first if waiting == "backing off" else second
    stage.post(e.CancelWanted(download))

    assert stage.view(download).status == "cancelled"


def test_a_cancel_that_comes_too_late() -> None:
    """A process that had said that it was done has done it: completed, and what has come is not discarded."""
    stage = Stage()
    download = stage.want()
    stage.post(e.JobSaid(download, DONE))
    stage.post(e.CancelWanted(download))
    actions = stage.post(e.JobExited(download, "killed"))

    assert stage.view(download).status == "completed"
    assert not any(isinstance(action, a.DiscardParts) for action in actions)


def test_cancelling_twice_and_what_is_over() -> None:
    """A second cancel changes nothing, nor one of something that is over."""
    stage = Stage()
    download = stage.want()
    stage.post(e.CancelWanted(download))
    assert stage.post(e.CancelWanted(download)) == []
    stage.post(e.JobExited(download, "killed"))

    assert stage.post(e.CancelWanted(download)) == []


def test_an_order_while_its_like_is_being_cancelled() -> None:
    """It becomes a download of its own, which starts when the cancelled one has left the directory."""
    stage = Stage()
    first = stage.want()
    stage.post(e.CancelWanted(first))
    second = stage.want()
    assert second != first
    assert stage.started() == [first]
    stage.post(e.JobExited(first, "killed"))

    assert stage.started() == [first, second]


def test_silence_is_a_hang() -> None:
    """A process that says nothing for the bound is killed and started again; time that we slept through does not count."""
    stage = Stage()
    download = stage.want()
    stage.post(e.JobSaid(download, JobProgress(done_bytes=1, files_done=0)), after=30.0)
    assert stage.post(e.TimePassed(), after=59.0) == []
    assert stage.post(e.TimePassed(lost_seconds=100.0), after=100.0) == []
    actions = stage.post(e.TimePassed(), after=1.0)
    assert actions == [a.KillJob(download)]
    assert stage.post(e.TimePassed(), after=1.0) == []
    stage.post(e.JobExited(download, "killed"))

    assert "said nothing" in (stage.view(download).trouble or "")


def test_bytes_that_are_no_message() -> None:
    """A process that breaks the protocol is killed, once, and counts as dead."""
    stage = Stage()
    download = stage.want()
    assert stage.post(e.JobMisbehaved(download, "undecodable")) == [a.KillJob(download)]
    assert stage.post(e.JobMisbehaved(download, "undecodable")) == []
    stage.post(e.JobExited(download, "killed"))

    assert "undecodable" in (stage.view(download).trouble or "")


def test_loads_wait_for_their_model() -> None:
    """What was to be loaded is loaded when the model has arrived, once per id and in the latest wish's way."""
    stage = Stage()
    download = stage.want(then_load=LoadOrder(model_id="org/a"))
    latest = LoadOrder(model_id="org/a", profile=LoadProfile(slots=2))
    stage.post(e.FollowWanted(download, latest))
    stage.post(e.JobSaid(download, DONE))
    actions = stage.post(e.JobExited(download, "left"))

    assert [action for action in actions if isinstance(action, a.LoadArrived)] == [a.LoadArrived(latest)]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_no_load_without_its_model(end: str) -> None:
    """A download that brings nothing loads nothing."""
    stage = Stage()
    download = stage.want(then_load=LoadOrder(model_id="org/a"))
    if end == "failed":
        stage.post(e.JobSaid(download, JobFailed(code=ErrorCode.HUB_UNAVAILABLE, message="gone")))
    else:
        stage.post(e.CancelWanted(download))
    stage.post(e.JobExited(download, "left"))

    assert stage.view(download).status == end
    assert not any(isinstance(action, a.LoadArrived) for action in stage.actions)


def test_the_service_stops() -> None:
    """Everything ends, nothing starts, what has come is kept, and new orders are declined."""
    stage = Stage(DownloadPolicy(at_once=1))
    first, second = stage.want("org/a"), stage.want("org/b")
    actions = stage.post(e.StopWanted())
    stage.post(e.JobExited(first, "killed"))

    assert a.KillJob(first) in actions
    assert stage.started() == [first]
    assert [stage.view(download).status for download in (first, second)] == ["cancelled"] * 2
    assert not any(isinstance(action, a.DiscardParts) for action in stage.actions)
    assert stage.want("org/c") == ErrorCode.SHUTTING_DOWN


def test_progress_is_told_in_moderation() -> None:
    """At most once a second, sooner or later by how much has moved, and only to subscribers."""
    stage = Stage()
    download = stage.want()
    stage.post(e.JobSaid(download, JobPlanned(commit="c", total_bytes=1000, missing_bytes=1000, free_bytes=9999, files=1)))

    def said(done_bytes: int, after: float) -> int:
        message = JobProgress(done_bytes=done_bytes, files_done=0)
        return sum(isinstance(action, a.Publish) for action in stage.post(e.JobSaid(download, message), after=after))

    assert said(0, 0.0) == 1
    assert said(500, 0.5) == 0
    assert said(500, 0.5) == 1
    assert said(501, 5.0) == 0
    assert said(502, 5.0) == 1


def test_what_is_remembered_is_bounded() -> None:
    """The oldest downloads that are over are forgotten; those that are not stay."""
    stage = Stage()
    stays = stage.want("org/stays")
    for number in range(limits.DOWNLOADS_KEPT_MAX + 5):
        download = stage.want(f"org/m{number}")
        stage.post(e.JobSaid(download, DONE))
        stage.post(e.JobExited(download, "left"))
    views = stage.downloads.views()

    assert len(views) == limits.DOWNLOADS_KEPT_MAX + 1
    assert views[0].download_id == stays


def test_downloads_of_an_earlier_life_go_on() -> None:
    """They start with the first tick."""
    known = Download("dl-old", DownloadOrder(repo_id="org/a"), 1.0)
    stage = Stage(known=[known])
    stage.post(e.TimePassed())

    assert stage.started() == ["dl-old"]
    assert stage.downloads.active("org/a") is not None


def test_the_table_of_moves() -> None:
    """What is over stays over, every state can be reached, and a move that is not in the table is a loud defect."""
    assert not [move for move in TRANSITIONS if move[0] in OVER]
    assert {to for _, to in TRANSITIONS} == set(DownloadState)
    download = Download("dl-1", DownloadOrder(repo_id="org/a"), 1.0)
    with pytest.raises(IllegalMove, match="queued to completed"):
        download.move(DownloadState.COMPLETED)
