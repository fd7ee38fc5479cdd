"""Answers held to a form by real backends: the demo model on llama.cpp, and a tiny random one, which never helps, on MLX."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, OutputForm, Sampling
from lmx_protocol.states import FinishReason, OutputKind
from lmx_worker.backends.base import Backend, Delta, ErrorDelta, FinishDelta, RequestError
from tests.support.backend_driver import GREEDY, answer, ask, finish_of, run, start, step_until_text, text_of
from tests.support.llamacpp_models import load_demo
from tests.support.mlx_models import load_mlx, write_tiny_mlx_model
from tests.support.schemas import SCHEMAS, SHORT, check

HOT = 1.5
ANSWER_TOKENS = 48
CODE = OutputForm(kind=OutputKind.REGEX, source=r"[A-Z]{3}-\d{2}( (red|blue)){4}")
CODE_PATTERN = re.compile(CODE.source)


def raw(prompt: str) -> GenerateRequest:
    """A request whose prompt is not templated."""
    return GenerateRequest(request_id="a", model_id="m", prompt=prompt)


@pytest.fixture(scope="module", params=[pytest.param("llamacpp", marks=pytest.mark.real), "mlx"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One backend after the other, loaded once."""
    if request.param == "llamacpp":
        backend: Backend = load_demo()
    else:
        backend = load_mlx(write_tiny_mlx_model(tmp_path_factory.mktemp("model"), can_write_everything=True))
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: Backend) -> Iterator[Backend]:
    """The backend with nothing running."""
    yield loaded
    for name in ("a", "b", "c"):
        loaded.remove(name)
    assert loaded.stats().active == 0


def test_hot_answers_have_their_schema(backend: Backend) -> None:
    """At temperature 1.5, in full batches: whatever ends by itself is valid, and what cannot be long does end by itself."""
    waiting = [
        ask(
            name,
            "Write an example.",
            max_tokens=ANSWER_TOKENS,
            sampling=Sampling(temperature=HOT, seed=seed),
            output=OutputForm(kind=OutputKind.JSON_SCHEMA, source=json.dumps(schema)),
        )
        for seed, (name, schema) in enumerate(SCHEMAS.items())
    ]
    deltas: list[Delta] = []
    while waiting or backend.stats().active:
        while waiting and backend.has_room():
            start(backend, waiting.pop())
        deltas += backend.step()
    for name, schema in SCHEMAS.items():
        finish = finish_of(deltas, name)
        if finish.reason == FinishReason.STOP:
            check(schema, text_of(deltas, name))
        else:
            assert name not in SHORT
            assert finish.usage.completion_tokens == ANSWER_TOKENS


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=HOT, seed=1, top_k=0),
        Sampling(temperature=HOT, seed=2, top_k=3, top_p=0.5, min_p=0.1),
        Sampling(temperature=HOT, seed=3, repeat_penalty=1.3, frequency_penalty=1.5, presence_penalty=-1.0),
        Sampling(temperature=0.0, repeat_penalty=1.5, frequency_penalty=2.0),
        Sampling(temperature=HOT, seed=4, logit_bias=tuple((token, 100.0) for token in range(3, 100))),
    ],
    ids=["greedy", "whole vocabulary", "few candidates", "penalties", "greedy with penalties", "bias against the form"],
)
def test_a_form_holds_under_every_sampling(backend: Backend, sampling: Sampling) -> None:
    """No temperature, penalty, cut or bias leads out of the form, and the answer ends by itself when nothing can follow."""
    start(backend, ask("a", "Which code?", max_tokens=ANSWER_TOKENS, sampling=sampling, output=CODE))
    deltas = run(backend)
    assert CODE_PATTERN.fullmatch(text_of(deltas, "a"))
    assert finish_of(deltas, "a").reason == FinishReason.STOP


def test_a_grammar_in_lark_form_is_followed(backend: Backend) -> None:
    """Rules, terminals and repetition of a context-free grammar."""
    source = 'start: pair{3}\npair: "(" NAME "," pair? ")"\nNAME: /[a-c]{1,2}/'
    form = OutputForm(kind=OutputKind.GRAMMAR, source=source)
    start(backend, ask("a", "Go.", max_tokens=64, sampling=Sampling(temperature=HOT, seed=5), output=form))
    deltas = run(backend)
    text = text_of(deltas, "a")
    assert re.fullmatch(r"[(),a-c]+", text)
    if finish_of(deltas, "a").reason == FinishReason.STOP:
        assert text.count("(") == text.count(")") >= 3


def test_an_answer_cut_by_its_length_says_so(backend: Backend) -> None:
    """A form is no reason to go on past the limit."""
    start(backend, ask("a", "Go.", max_tokens=2, output=CODE))
    deltas = run(backend)
    finish = finish_of(deltas, "a")
    assert (finish.reason, finish.usage.completion_tokens) == (FinishReason.LENGTH, 2)
    assert CODE_PATTERN.fullmatch(text_of(deltas, "a")) is None


def test_a_form_complete_at_the_limit_is_an_end(backend: Backend) -> None:
    """The last token that was allowed completes the form: that is an answer, not a cut."""
    form = OutputForm(kind=OutputKind.REGEX, source="[0-9]")
    start(backend, ask("a", "Go.", max_tokens=1, output=form))
    deltas = run(backend)
    assert finish_of(deltas, "a").reason == FinishReason.STOP
    assert text_of(deltas, "a").isdigit()


def test_neighbours_of_a_held_answer_are_free(backend: Backend) -> None:
    """In one batch a form holds its own request only: the other says what it says alone."""
    free = ask("b", "What is the capital of France? Answer in one sentence.", max_tokens=12)
    alone = answer(backend, free)
    deltas: list[Delta] = []
    # The question is one that the demo model is sure of: batches of other sizes are computed with other last bits.
    for request in (free, ask("a", "Which code?", max_tokens=ANSWER_TOKENS, sampling=Sampling(temperature=HOT), output=CODE)):
        start(backend, request)
        deltas += step_until_text(backend, request.request_id, 1)
        backend.pause(request.request_id)
    backend.resume("a")
    backend.resume("b")
    deltas += run(backend)
    assert CODE_PATTERN.fullmatch(text_of(deltas, "a"))
    assert text_of(deltas, "b") == alone


def test_a_held_answer_survives_pauses(backend: Backend) -> None:
    """Paused after each of its tokens it comes out as it does in one go."""
    request = ask("a", "Which code?", max_tokens=ANSWER_TOKENS, sampling=Sampling(temperature=HOT, seed=7), output=CODE)
    whole = answer(backend, request)
    assert CODE_PATTERN.fullmatch(whole)
    start(backend, request)
    deltas: list[Delta] = []
    while not any(isinstance(delta, FinishDelta) for delta in deltas):
        deltas += step_until_text(backend, "a", 1)
        backend.pause("a")
        assert backend.step() == []
        backend.resume("a")
    assert text_of(deltas, "a") == whole


def test_a_cancelled_held_answer_leaves_nothing_behind(backend: Backend) -> None:
    """Removed in the middle, its form is gone: the next request on the same slot is free, and one with the form begins anew."""
    start(backend, ask("a", "Which code?", max_tokens=ANSWER_TOKENS, output=CODE))
    step_until_text(backend, "a", 3)
    assert backend.remove("a").completion_tokens >= 3
    assert CODE_PATTERN.fullmatch(answer(backend, ask("a", "Which code?", max_tokens=ANSWER_TOKENS, output=CODE)))
    assert not CODE_PATTERN.fullmatch(answer(backend, ask("b", "Which code?", max_tokens=8)))


def test_a_bad_form_is_refused_while_preparing(backend: Backend) -> None:
    """The request fails alone, before it takes a slot."""
    with pytest.raises(RequestError) as caught:
        backend.prepare(ask("a", "Go.", output=OutputForm(kind=OutputKind.JSON_SCHEMA, source='{"type": 1}')))
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "response_format")


def test_control_tokens_are_no_text(backend: Backend) -> None:
    """A form that allows every text allows the end of the answer, and no other control token."""
    markers = [backend.prepare(raw(marker)).tokens[-1] for marker in ("<|im_start|>", "<|im_end|>")]
    prepared = backend.prepare(ask("a", "Go.", output=OutputForm(kind=OutputKind.REGEX, source=r"(.|\n)*")))
    assert prepared.constraint is not None
    allowed = prepared.constraint.allowed()
    assert allowed is not None
    assert [allowed[marker // 8] >> marker % 8 & 1 for marker in markers] == [0, 1]


def test_preparing_needs_no_engine_thread(tmp_path: Path) -> None:
    """The form is compiled on another thread than the one that steps, and holds there."""
    backend = load_mlx(write_tiny_mlx_model(tmp_path / "model", can_write_everything=True))
    with ThreadPoolExecutor(1) as pool:
        prepared = pool.submit(backend.prepare, ask("a", "Which code?", max_tokens=ANSWER_TOKENS, output=CODE)).result()
    backend.insert(prepared)
    assert CODE_PATTERN.fullmatch(text_of(run(backend), "a"))
    backend.close()


@pytest.mark.real
def test_a_form_that_explodes_while_sampling_fails_its_request_only() -> None:
    """An expression that compiles, and passes llguidance's bounds one token later, fails alone as the client's error."""
    backend = load_demo()
    endless = OutputForm(kind=OutputKind.REGEX, source="x?a{1000000000}")
    start(backend, ask("a", "Go.", output=endless), ask("b", "Go.", max_tokens=8))
    deltas = run(backend)
    (error,) = (delta for delta in deltas if isinstance(delta, ErrorDelta))
    assert (error.request_id, error.code, error.param) == ("a", ErrorCode.INVALID_VALUE, "response_format")
    assert finish_of(deltas, "b").usage.completion_tokens > 0
    assert backend.stats().active == 0
    backend.close()


def test_a_form_the_vocabulary_cannot_write_fails_its_request_only(tmp_path: Path) -> None:
    """A model without a token for a brace gets as far as the brace; its neighbour in the batch goes on."""
    backend = load_mlx(write_tiny_mlx_model(tmp_path / "model"))
    start(backend, ask("a", "Go.", output=OutputForm(kind=OutputKind.REGEX, source="fox{2}\\{")), ask("b", "Go.", max_tokens=8))
    deltas = run(backend)
    (error,) = (delta for delta in deltas if isinstance(delta, ErrorDelta))
    assert (error.request_id, error.code, error.param) == ("a", ErrorCode.INVALID_VALUE, "response_format")
    assert text_of(deltas, "a") == "foxx"
    assert finish_of(deltas, "b").usage.completion_tokens > 0
    assert backend.stats().active == 0
    backend.close()
