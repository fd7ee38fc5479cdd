"""Embeddings and rankings in the core: canaries of models that do not generate, replays, and results that nobody asked for."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequest,
    AnyRequestEvent,
    Begin,
    Cancel,
    EmbedRequest,
    Failed,
    Finished,
    GenerateRequest,
    Loaded,
    ModelFacts,
    RankRequest,
    Scores,
    StepEvents,
    Text,
    Usage,
    Vectors,
)
from lmx_protocol.states import FinishReason, ModelTask, RankMethod, WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.canary import canary_for, canary_passed
from lmx_supervisor.core.results import fits
from tests.support.stage import Stage, facts

EMBED = EmbedRequest(request_id="r", model_id="m", inputs=("a", "b"))
RANK = RankRequest(request_id="r", model_id="m", query="q", documents=("a", "b"))


def facts_of(*tasks: ModelTask) -> ModelFacts:
    """Of a model that can do these."""
    return facts(tasks=tasks)


def finished(request_id: str, *, seq: int = 0, usage: Usage) -> Finished:
    """A good end."""
    return Finished(request_id=request_id, seq=seq, reason=FinishReason.STOP, usage=usage)


def vectors(first_index: int = 0, count: int = 1, dimensions: int = 2, extra: bytes = b"") -> Vectors:
    """Vectors of zeros."""
    return Vectors(request_id="r", first_index=first_index, dimensions=dimensions, data=bytes(4 * dimensions * count) + extra)


def scores(first_index: int = 0, count: int = 1) -> Scores:
    """Scores of zero."""
    return Scores(request_id="r", method=RankMethod.COSINE, first_index=first_index, values=(0.0,) * count)


@pytest.mark.parametrize(
    ("tasks", "kind"),
    [
        ((ModelTask.GENERATE,), GenerateRequest),
        ((ModelTask.GENERATE, ModelTask.EMBED, ModelTask.RANK), GenerateRequest),
        ((ModelTask.EMBED, ModelTask.RANK), EmbedRequest),
        ((ModelTask.RANK,), RankRequest),
    ],
)
def test_the_canary_is_of_a_kind_that_the_model_answers(tasks: tuple[ModelTask, ...], kind: type[AnyRequest]) -> None:
    """What generates has to generate a token, what reads has to read some."""
    known = facts_of(*tasks)
    canary = canary_for(known, "c", "m")
    is_generation = kind is GenerateRequest

    assert isinstance(canary, kind)
    assert canary_passed(known, finished("c", usage=Usage(prompt_tokens=3, completion_tokens=int(is_generation))))
    assert not canary_passed(known, finished("c", usage=Usage(prompt_tokens=3 * is_generation, completion_tokens=0)))
    assert not canary_passed(known, Failed(request_id="c", code=ErrorCode.GENERATION_ERROR, message="no"))


def test_an_embedding_model_becomes_ready_by_an_embedding(stage: Stage) -> None:
    """The whole way through the states, with a canary that is no generation."""
    stage.load()
    stage.hello()
    stage.say(Loaded(facts=facts_of(ModelTask.EMBED, ModelTask.RANK), seconds=0.1, footprint_bytes=1))
    (begin,) = stage.sent(Begin)
    stage.say(StepEvents(events=(finished(begin.request.request_id, usage=Usage(prompt_tokens=5)),)))

    assert isinstance(begin.request, EmbedRequest)
    assert stage.state() is WorkerState.READY


@pytest.mark.parametrize(
    ("request_", "event", "does_fit"),
    [
        (EMBED, vectors(0, 2), True),
        (EMBED, vectors(1), True),
        (EMBED, vectors(1, 2), False),
        (EMBED, vectors(extra=b"x"), False),
        (EmbedRequest(request_id="r", model_id="m", inputs=("a",), dimensions=2), vectors(), True),
        (EmbedRequest(request_id="r", model_id="m", inputs=("a",), dimensions=3), vectors(), False),
        (EMBED, scores(), False),
        (RANK, scores(0, 2), True),
        (RANK, scores(1, 2), False),
        (RANK, vectors(), False),
        (GenerateRequest(request_id="r", model_id="m"), vectors(), False),
        (GenerateRequest(request_id="r", model_id="m"), Text(request_id="r", text="x"), True),
    ],
)
def test_results_have_to_fit_their_request(request_: AnyRequest, event: AnyRequestEvent, does_fit: bool) -> None:
    """Kind, number and size; readers then need not check again."""
    assert does_fit is fits(request_, event)


def test_a_worker_that_sends_results_nobody_asked_for_is_ended(stage: Stage) -> None:
    """Its request fails at once, and the worker is not trusted any further."""
    stage.ready()
    stage.do(e.RequestArrived(EMBED))
    stage.say(StepEvents(events=(vectors(5),)))

    (failed,) = stage.ends("r")
    assert isinstance(failed, Failed) and failed.code is ErrorCode.GENERATION_ERROR
    assert stage.signals()


def test_an_embedding_whose_worker_dies_is_replayed(stage: Stage) -> None:
    """Vectors that were delivered already do not hinder it: the reader takes them by their index, and they come again."""
    stage.ready()
    stage.do(e.RequestArrived(EMBED))
    stage.say(StepEvents(events=(vectors(),)))
    stage.die()
    assert not stage.ends("r")
    stage.come_up()
    stage.say(StepEvents(events=(vectors(0, 2), finished("r", seq=1, usage=Usage(prompt_tokens=2)))))

    assert [EMBED, EMBED] == [begin.request for begin in stage.sent(Begin) if begin.request.request_id == "r"]
    delivered = [action.event for action in stage.of(a.Deliver)]
    assert [0, 0] == [event.first_index for event in delivered if isinstance(event, Vectors)]
    assert "Finished" == type(delivered[-1]).__name__


def test_a_ranking_can_be_poison(stage: Stage) -> None:
    """A request that kills its worker twice is refused, whatever its kind; the same with another id too."""
    stage.ready()
    stage.do(e.RequestArrived(RANK))
    stage.die()
    stage.come_up()
    stage.die()
    again = RankRequest(request_id="again", model_id="m", query="q", documents=("a", "b"))
    stage.do(e.RequestArrived(again))

    for request_id in ("r", "again"):
        (failed,) = stage.ends(request_id)
        assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.REQUEST_CRASHES_MODEL


def test_an_embedding_is_cancelled_like_any_request(stage: Stage) -> None:
    """The worker is told, and its word ends it."""
    stage.ready()
    stage.do(e.RequestArrived(EMBED))
    stage.do(e.RequestCancelled("r"))

    assert ["r"] == [cancel.request_id for cancel in stage.sent(Cancel)]
