"""From request to tokens on the prepare thread: templates, caps, and bad requests that never reach the engine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, Sampling
from lmx_worker.backends.base import RequestError
from lmx_worker.backends.mlx.backend import MlxBackend
from tests.support.backend_driver import answer, ask, run, start, text_of
from tests.support.mlx_models import LONG_TEXT, SHORT_TEXT, TINY_CONTEXT_TOKENS, load_mlx, write_tiny_mlx_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with plain attention."""
    return write_tiny_mlx_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def backend(tiny: Path) -> Iterator[MlxBackend]:
    """The plain model, freshly loaded: nothing is cached yet."""
    backend = load_mlx(tiny)
    yield backend
    backend.close()


def test_a_prompt_over_the_context_is_refused_with_both_numbers(backend: MlxBackend) -> None:
    """The message names the prompt's tokens and the context, so that a client can act on it."""
    with pytest.raises(RequestError) as caught:
        backend.prepare(ask("a", LONG_TEXT * 20))
    assert caught.value.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert caught.value.param == "messages"
    assert str(TINY_CONTEXT_TOKENS) in str(caught.value)


def test_a_count_is_what_would_be_computed_however_long(backend: MlxBackend) -> None:
    """The number of tokens that a request would be prepared with, also where that is more than the context holds."""
    for fitting in (ask("a", SHORT_TEXT), GenerateRequest(request_id="a", model_id="m", prompt=SHORT_TEXT)):
        assert backend.count_tokens(fitting) == len(backend.prepare(fitting).tokens)
    assert backend.count_tokens(ask("a", LONG_TEXT * 20)) > TINY_CONTEXT_TOKENS


def test_max_tokens_is_capped_by_the_context(backend: MlxBackend) -> None:
    """Without a wish or with a huge one, an answer gets the room that the prompt leaves."""
    for wish in (None, 1_000_000):
        prepared = backend.prepare(ask("a", SHORT_TEXT, max_tokens=wish))
        assert prepared.max_tokens == TINY_CONTEXT_TOKENS - len(prepared.tokens)


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (ask("a", "x", sampling=Sampling(logit_bias=((160, 1.0),))), ErrorCode.INVALID_VALUE, "logit_bias"),
        (ask("a", "x", sampling=Sampling(logit_bias=((-1, 1.0),))), ErrorCode.INVALID_VALUE, "logit_bias"),
        (ask("a", "x", sampling=Sampling(repeat_penalty=0.0)), ErrorCode.INVALID_VALUE, "repeat_penalty"),
        (ask("a", "x", max_tokens=0), ErrorCode.INVALID_VALUE, "max_tokens"),
        (ask("a", "\ud800"), ErrorCode.INVALID_REQUEST, "messages"),
        (GenerateRequest(request_id="a", model_id="m", prompt=""), ErrorCode.INVALID_REQUEST, "prompt"),
        (
            GenerateRequest(request_id="a", model_id="m", messages=(Message(role="nobody", content="x"),)),
            ErrorCode.INVALID_REQUEST,
            "messages",
        ),
    ],
)
def test_bad_requests_are_refused_before_the_engine(
    backend: MlxBackend, request_: GenerateRequest, code: ErrorCode, param: str
) -> None:
    """Values the model cannot take, broken text and messages its template refuses come back naming the field."""
    with pytest.raises(RequestError) as caught:
        backend.prepare(request_)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_model_without_a_template_speaks_chatml(tmp_path: Path) -> None:
    """The default template renders what the tiny model's own would."""
    plain = load_mlx(write_tiny_mlx_model(tmp_path / "plain", chat_template=None))
    own = load_mlx(write_tiny_mlx_model(tmp_path / "own"))
    assert plain.prepare(ask("a", SHORT_TEXT)).tokens == own.prepare(ask("a", SHORT_TEXT)).tokens
    plain.close()
    own.close()


def test_prepare_runs_beside_step(backend: MlxBackend) -> None:
    """Tokenizing on another thread while this one decodes disturbs neither."""
    alone = answer(backend, ask("a", SHORT_TEXT))
    expected = backend.prepare(ask("x", LONG_TEXT)).tokens
    start(backend, ask("b", SHORT_TEXT))
    with ThreadPoolExecutor(max_workers=1) as prepare_thread:
        futures = [prepare_thread.submit(backend.prepare, ask("x", LONG_TEXT)) for _ in range(50)]
        deltas = run(backend)
        assert all(future.result().tokens == expected for future in futures)
    assert text_of(deltas, "b") == alone
