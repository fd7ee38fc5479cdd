"""Requests: each is leased, queued, replayed or refused, and ends exactly once."""

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Begin, Cancel, Cancelled, Failed, Finished, StepEvents, Text
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage


def test_a_request_for_a_model_that_is_not_loaded_says_how_to_load_it(stage: Stage) -> None:
    """The refusal is the 404 kind and names the command."""
    stage.ask("r", "ghost")
    (end,) = stage.ends("r")

    assert end.code is ErrorCode.MODEL_NOT_FOUND
    assert "lmx load ghost" in end.message


def test_a_request_waits_for_a_model_that_is_loading(stage: Stage) -> None:
    """It is leased in the same step that makes the model ready."""
    stage.load()
    stage.ask("r")
    stage.come_up()

    assert [g.request.request_id for g in stage.sent(Begin)][-1] == "r"
    assert stage.state() is WorkerState.BUSY


def test_a_worker_never_gets_more_requests_than_it_has_slots(stage: Stage) -> None:
    """The third request waits until one of the first two ends."""
    stage.ready(slots=2)
    for name in ("a", "b", "c"):
        stage.ask(name)
    assert stage.slot().running == {"a", "b"}
    stage.finish("a", seq=0)

    assert stage.slot().running == {"b", "c"}


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    """One more than the queue holds is told 429 with Retry-After, at once."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=1))
    stage.ready(slots=1)
    for name in ("runs", "waits", "refused"):
        stage.ask(name)
    (end,) = stage.ends("refused")

    assert (end.code, end.retry_after_seconds) == (ErrorCode.RATE_LIMIT_EXCEEDED, 5)
    assert not stage.ends("waits")


def test_a_request_that_waited_too_long_is_told_so(stage: Stage) -> None:
    """The wait is bounded, and the refusal says that the model is still loading."""
    stage.load()
    stage.hello()
    stage.ask("r")
    for _ in range(int(limits.QUEUE_WAIT_SECONDS) + 1):
        stage.beat()
        stage.tick(1)
    (end,) = stage.ends("r")

    assert end.code is ErrorCode.MODEL_LOADING
    assert end.retry_after_seconds is not None


def test_a_death_after_the_first_token_is_told_and_not_hidden(stage: Stage) -> None:
    """The stream gets exactly one `worker_lost`, and the model comes back by itself."""
    stage.ready()
    stage.ask("r")
    stage.text("r", 0)
    stage.die()
    (end,) = stage.ends("r")

    assert end.code is ErrorCode.WORKER_LOST
    assert stage.state() is WorkerState.SPAWNING


def test_a_death_before_the_first_token_is_replayed_once(stage: Stage) -> None:
    """The client notices nothing but time; a second death is told."""
    stage.ready()
    stage.ask("r")
    stage.die()
    assert not stage.ends("r")
    stage.come_up()
    assert [g.request.request_id for g in stage.sent(Begin)].count("r") == 2
    stage.die()
    (end,) = stage.ends("r")

    assert end.code is ErrorCode.WORKER_LOST
    assert stage.told("request_replayed")


def test_replayed_requests_keep_their_place_in_the_line(stage: Stage) -> None:
    """Those that were running go first again, in their order, before those that only waited."""
    stage.ready(slots=2)
    for name in ("a", "b", "c"):
        stage.ask(name)
    stage.die()

    assert list(stage.slot().waiting) == ["a", "b", "c"]


def test_a_cancelled_request_is_not_replayed(stage: Stage) -> None:
    """Its client is gone: it ends as cancelled when the worker dies before acknowledging."""
    stage.ready()
    stage.ask("r")
    stage.do(e.RequestCancelled("r"))
    stage.die()

    assert [type(end) for end in stage.ends("r")] == [Cancelled]


def test_cancelling_is_idempotent_and_reaches_the_worker_once(stage: Stage) -> None:
    """A second cancel, and one for an unknown request, change nothing."""
    stage.ready()
    stage.ask("r")
    for _ in range(2):
        stage.do(e.RequestCancelled("r"))
    stage.do(e.RequestCancelled("ghost"))

    assert len(stage.sent(Cancel)) == 1


def test_cancelling_a_waiting_request_needs_no_worker(stage: Stage) -> None:
    """It leaves the queue and ends at once."""
    stage.load()
    stage.ask("r")
    stage.do(e.RequestCancelled("r"))

    assert [type(end) for end in stage.ends("r")] == [Cancelled]
    assert not stage.slot().waiting


def test_whichever_of_cancel_and_finish_comes_first_wins(stage: Stage) -> None:
    """A worker that finished before it heard the cancel ends the request; nothing follows."""
    stage.ready()
    stage.ask("r")
    stage.do(e.RequestCancelled("r"))
    stage.finish("r", seq=0)

    assert [type(end) for end in stage.ends("r")] == [Finished]
    assert stage.state() is WorkerState.READY


def test_a_gap_in_the_stream_fails_it_and_ends_the_worker(stage: Stage) -> None:
    """A silent hole in the text is the worst outcome: the client is told, the worker is not trusted any more."""
    stage.ready()
    stage.ask("r")
    stage.text("r", 0)
    stage.text("r", 2)
    (end,) = stage.ends("r")

    assert end.code is ErrorCode.STREAM_GAP
    assert stage.signals() == [a.WorkerSignal.KILL]


def test_events_of_a_foreign_request_end_the_worker(stage: Stage) -> None:
    """A worker that speaks of requests it was never given is killed."""
    stage.ready()
    stage.text("stranger", 0)

    assert stage.told("protocol_violation")
    assert stage.signals() == [a.WorkerSignal.KILL]


def test_a_second_end_is_never_delivered(stage: Stage) -> None:
    """A worker that finishes twice is killed, and the client saw one end."""
    stage.ready()
    stage.ask("r")
    stage.finish("r", seq=0)
    stage.finish("r", seq=1)

    assert len(stage.ends("r")) == 1
    assert stage.signals() == [a.WorkerSignal.KILL]


def test_late_words_of_a_dead_worker_reach_nobody(stage: Stage) -> None:
    """Frames that were still on their way when the process ended are dropped."""
    stage.ready()
    stage.ask("r")
    dead = stage.incarnation()
    stage.die()
    before = len(stage.of(a.Deliver))
    stage.do(e.Said(dead, StepEvents(events=(Text(request_id="r", seq=0, text="late"),))))

    assert len(stage.of(a.Deliver)) == before


def test_requests_refused_while_draining(stage: Stage) -> None:
    """A new request during shutdown is told to come back; the running one is let run to its end."""
    stage.ready()
    stage.ask("runs")
    stage.do(e.DrainWanted(30.0))
    stage.ask("late")
    (late,) = stage.ends("late")
    assert isinstance(late, Failed)
    assert late.code is ErrorCode.SHUTTING_DOWN
    assert not stage.ends("runs")
    stage.finish("runs", seq=0)
    stage.die(code=0)

    assert isinstance(stage.actions[-1], a.AllStopped)


def test_a_drain_ends_what_outlasts_it(stage: Stage) -> None:
    """Past the deadline the stream gets an error and the worker is asked to stop."""
    stage.ready()
    stage.ask("r")
    stage.do(e.DrainWanted(5.0))
    stage.tick(6)
    (end,) = stage.ends("r")

    assert end.code is ErrorCode.SHUTTING_DOWN
    assert a.WorkerSignal.TERMINATE in stage.signals()


def test_a_worker_that_is_being_ended_gets_no_new_request(stage: Stage) -> None:
    """After a violation the next request waits for the next incarnation instead of dying with this one."""
    stage.ready()
    stage.text("stranger", 0)
    stage.ask("r")
    assert [g.request.request_id for g in stage.sent(Begin) if g.request.request_id == "r"] == []
    stage.die()
    stage.come_up()

    assert stage.sent(Begin)[-1].request.request_id == "r"


def test_a_count_does_not_wait_for_generations(stage: Stage) -> None:
    """It is leased at once although every slot is taken and others wait, and it takes nobody's slot."""
    stage.ready(slots=1)
    for name in ("runs", "waits"):
        stage.ask(name)
    stage.ask_for_count("count")
    assert stage.slot().running == {"runs", "count"}
    stage.finish("runs", seq=0)
    assert stage.slot().running == {"count", "waits"}
    stage.finish("count", seq=0)

    assert len(stage.ends("count")) == 1
    assert stage.state() is WorkerState.BUSY


def test_a_flood_of_counts_is_bounded_by_itself() -> None:
    """As many are leased as there are slots, the others wait or are refused; a generation finds its slot free."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=1))
    stage.ready(slots=2)
    for name in "abcd":
        stage.ask_for_count(name)
    stage.ask("g")

    assert stage.slot().running == {"a", "b", "g"}
    assert list(stage.slot().waiting) == ["c"]
    assert [end.code for end in stage.ends("d")] == [ErrorCode.RATE_LIMIT_EXCEEDED]
    stage.finish("a", seq=0)
    assert stage.slot().running == {"b", "c", "g"}


def test_a_count_finds_room_where_the_line_is_full() -> None:
    """A model whose line is full of generations still counts."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=1))
    stage.ready(slots=1)
    for name in ("runs", "waits"):
        stage.ask(name)
    stage.ask_for_count("count")

    assert stage.slot().running == {"runs", "count"}


def test_a_count_survives_the_worker(stage: Stage) -> None:
    """A death before it is answered replays it on the next worker."""
    stage.ready()
    stage.ask_for_count("count")
    stage.die()
    stage.come_up()

    assert stage.slot().running == {"count"}
    assert not stage.ends("count")


def test_a_count_does_not_prove_that_a_model_generates(stage: Stage) -> None:
    """What a worker has served counts for its stability; a count of tokens is not service."""
    stage.ready()
    stage.ask_for_count("count")
    stage.finish("count", seq=0)
    assert stage.slot().served_since_ready == 0
    stage.ask("r")
    stage.finish("r", seq=0)

    assert stage.slot().served_since_ready == 1
