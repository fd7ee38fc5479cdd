"""Which inputs a step computes, and what comes of the vectors: packing, cutting, turns, cancels, ends."""

import struct
from collections.abc import Callable, Sequence

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import EmbedRequest, RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import FinishReason, RankMethod
from lmx_worker.backends.base import Delta, ErrorDelta, FinishDelta, PrefillDelta, PreparedInputs, ResultDelta
from lmx_worker.backends.input_jobs import InputJobs, Piece

BUDGET_TOKENS = 10


def jobs(*, inputs_max: int = 99, cuts: bool = False, pads: bool = False) -> InputJobs:
    """No requests yet."""
    return InputJobs(budget_tokens=BUDGET_TOKENS, inputs_max=inputs_max, cuts=cuts, pads=pads)


def embed(made: InputJobs, request_id: str, *lengths: int) -> None:
    """A request whose inputs have these many tokens; an input's tokens say its number."""
    request = EmbedRequest(request_id=request_id, model_id="m", inputs=("x",) * len(lengths))
    made.insert(PreparedInputs(request=request, inputs=[[index] * length for index, length in enumerate(lengths)]), now=0.0)


def shape(pieces: list[Piece]) -> list[tuple[str, int, int]]:
    """Request, input and length of each piece."""
    return [(piece.job.request_id, piece.tokens[0], len(piece.tokens)) for piece in pieces]


def run(
    made: InputJobs, vector: Callable[[Piece], Sequence[float]] = lambda piece: [float(piece.tokens[0]), 1.0]
) -> list[Delta]:
    """Step until nothing is left."""
    deltas: list[Delta] = []
    while pieces := made.take():
        deltas += made.done(pieces, [vector(piece) for piece in pieces if piece.completes], now=2.0)
    return deltas


def results(deltas: list[Delta], request_id: str = "r") -> list[Vectors | Scores]:
    """What was told of a request."""
    return [delta.result for delta in deltas if isinstance(delta, ResultDelta) and delta.request_id == request_id]


def test_a_step_takes_whole_inputs_up_to_its_budget() -> None:
    """Short inputs share a step; none is cut where the model reads an input at once."""
    made = jobs()
    embed(made, "r", 4, 4, 4, 25, 1)

    assert [[4, 4], [4], [25], [1]] == [[length for *_, length in shape(made.take())] for _ in range(4)]
    assert made.take() == []


def test_a_step_takes_no_more_inputs_than_it_may() -> None:
    """The model's sequences are a bound beside the tokens."""
    made = jobs(inputs_max=2)
    embed(made, "r", 1, 1, 1)

    assert [2, 1] == [len(made.take()), len(made.take())]


def test_padding_counts() -> None:
    """Where every input costs as much as the longest, a long one is not put beside many short ones."""
    made = jobs(pads=True)
    embed(made, "r", 1, 1, 5, 5, 1)

    assert [[1, 1], [5, 5], [1]] == [[length for *_, length in shape(made.take())] for _ in range(3)]


def test_a_long_input_is_cut_where_the_model_allows_it() -> None:
    """It is computed alone, a budget's worth a step, and only its last piece gives a vector."""
    made = jobs(cuts=True)
    embed(made, "r", 2, 25, 2)
    taken = [made.take() for _ in range(5)]

    assert [[2], [10], [10], [5], [2]] == [[length for *_, length in shape(pieces)] for pieces in taken]
    assert [0, 0, 10, 20, 0] == [piece.start for (piece,) in taken]
    assert [True, False, False, True, True] == [piece.completes for (piece,) in taken]


def test_requests_take_turns() -> None:
    """A request of one input does not wait behind another's thousand."""
    made = jobs(inputs_max=4)
    embed(made, "many", *[1] * 1000)
    embed(made, "one", 1)

    assert ("one", 0, 1) in shape(made.take())


def test_a_request_ends_with_its_last_vector() -> None:
    """Vectors come in order with their indexes, progress is told, and the end says the tokens and the time."""
    made = jobs()
    embed(made, "r", 8, 8)
    deltas = run(made)

    assert [PrefillDelta("r", 8, 16, 0), PrefillDelta("r", 16, 16, 0)] == [
        delta for delta in deltas if isinstance(delta, PrefillDelta)
    ]
    first, second = results(deltas)
    assert isinstance(first, Vectors) and isinstance(second, Vectors)
    assert (0, 1) == (first.first_index, second.first_index)
    assert struct.unpack("<2f", second.data) == pytest.approx((0.5**0.5, 0.5**0.5))
    assert isinstance(deltas[-1], FinishDelta)
    assert (FinishReason.STOP, Usage(prompt_tokens=16), 2.0) == (
        deltas[-1].reason,
        deltas[-1].usage,
        deltas[-1].timing.prefill_seconds,
    )
    assert 0 == len(made)
    assert 16 == made.tokens_done


def test_a_removed_request_is_computed_no_further() -> None:
    """Also between two pieces of one input; what it used is told, once."""
    made = jobs(cuts=True)
    embed(made, "r", 25, 3)
    embed(made, "other", 1)
    made.done(made.take(), [], now=1.0)

    assert Usage(prompt_tokens=10) == made.remove("r")
    assert made.remove("r") is None
    assert [("other", 0, 1)] == shape(made.take())


def test_a_ranking_by_cosine_gives_scores_of_documents() -> None:
    """The query's vector is not told; each document is scored against it, numbered from 0, however the steps fall."""
    made = jobs(inputs_max=1)
    request = RankRequest(request_id="r", model_id="m", query="q", documents=("a", "b"))
    made.insert(PreparedInputs(request=request, inputs=[[0], [0], [1]]), now=0.0)
    deltas = run(made, lambda piece: [1.0, 0.0] if piece.tokens[0] == 0 else [0.0, 2.0])

    assert results(deltas) == [
        Scores(request_id="r", method=RankMethod.COSINE, first_index=index, values=(value,))
        for index, value in enumerate((1.0, 0.0))
    ]
    assert isinstance(deltas[-1], FinishDelta)


def test_a_cross_encoder_gives_its_own_scores() -> None:
    """Each pair's one number is passed on as it is."""
    made = InputJobs(budget_tokens=BUDGET_TOKENS, inputs_max=9, cuts=False, ranks_by=RankMethod.CROSS_ENCODER)
    request = RankRequest(request_id="r", model_id="m", query="q", documents=("a", "b"))
    made.insert(PreparedInputs(request=request, inputs=[[0], [1]]), now=0.0)

    (scores,) = results(run(made, lambda piece: [piece.tokens[0] + 0.5]))
    assert Scores(request_id="r", method=RankMethod.CROSS_ENCODER, first_index=0, values=(0.5, 1.5)) == scores


def test_numbers_that_are_none_fail_their_own_request() -> None:
    """The other requests of the step go on."""
    made = jobs()
    embed(made, "bad", 1)
    embed(made, "good", 1)
    pieces = made.take()
    deltas = made.done(pieces, [[float("nan")], [1.0]], now=1.0)

    (error,) = (delta for delta in deltas if isinstance(delta, ErrorDelta))
    assert ("bad", ErrorCode.GENERATION_ERROR) == (error.request_id, error.code)
    assert isinstance(deltas[-1], FinishDelta) and deltas[-1].request_id == "good"
    assert 0 == len(made)
