"""Work that outlives its request: prefix reuse, cancelling, pausing, with caches that can be cut back and others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_protocol.messages import GenerateRequest, Sampling, Usage
from lmx_worker.backends.base import Delta, FinishDelta, PrefillDelta, Prepared, TextDelta
from lmx_worker.backends.mlx.backend import MlxBackend
from tests.support.backend_driver import GREEDY, answer, ask, finish_of, run, start, step_until_text, text_of
from tests.support.mlx_models import CHUNK_TOKENS, LONG_TEXT, SHORT_TEXT, load_mlx, write_tiny_mlx_model


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


@pytest.fixture(params=["llama", "lfm2"])
def any_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MlxBackend]:
    """Either family: a cache that can be cut back, and one that cannot."""
    backend = load_mlx(write_tiny_mlx_model(tmp_path / "model", model_type=request.param))
    yield backend
    backend.close()


def test_a_repeated_prompt_is_computed_once(backend: MlxBackend) -> None:
    """All but the last token of a known prompt comes from the cache, the answer is the same, and the count says so."""
    first = answer(backend, ask("a", LONG_TEXT))
    computed = backend.stats().tokens_prefilled
    start(backend, ask("b", LONG_TEXT))
    deltas = run(backend)
    usage = finish_of(deltas, "b").usage
    assert text_of(deltas, "b") == first
    assert usage.cached_tokens == usage.prompt_tokens - 1
    assert backend.stats().tokens_prefilled == computed + 1


def test_the_next_turn_reuses_the_conversation(any_backend: MlxBackend) -> None:
    """Prompt and answer of an ended request are reused by a prompt that continues them, whatever kind of cache it is."""
    (f,) = any_backend.prepare(GenerateRequest(request_id="f", model_id="m", prompt="f")).tokens
    says_f = Sampling(temperature=0.0, logit_bias=((f, 1000.0),))
    opening = any_backend.prepare(ask("a", LONG_TEXT, max_tokens=4, sampling=says_f))
    any_backend.insert(opening)
    assert text_of(run(any_backend), "a") == "ffff"
    conversation = [*opening.tokens, f, f, f, f]
    any_backend.insert(Prepared(request=ask("b", "as tokens"), tokens=[*conversation, *opening.tokens], max_tokens=1))
    usage = finish_of(run(any_backend), "b").usage
    assert usage.cached_tokens == len(conversation)


def test_a_cancelled_prompt_resumes_where_it_was(any_backend: MlxBackend) -> None:
    """Cancelled between two chunks, a prompt is not computed again up to there when the client retries."""
    start(any_backend, ask("a", LONG_TEXT))
    any_backend.step()
    (progress,) = (delta for delta in any_backend.step() if isinstance(delta, PrefillDelta))
    assert progress.done_tokens == 2 * CHUNK_TOKENS
    assert any_backend.remove("a").completion_tokens == 0
    start(any_backend, ask("b", LONG_TEXT))
    deltas = run(any_backend)
    assert finish_of(deltas, "b").usage.cached_tokens == progress.done_tokens
    assert text_of(deltas, "b") == answer(any_backend, ask("c", LONG_TEXT))


def test_a_cancelled_answer_frees_its_slot_and_disturbs_nobody(any_backend: MlxBackend) -> None:
    """Removing one of two decoding requests leaves the other's text as it is alone."""
    alone = answer(any_backend, ask("other", SHORT_TEXT))
    start(any_backend, ask("other", SHORT_TEXT), ask("gone", LONG_TEXT, max_tokens=60))
    deltas = step_until_text(any_backend, "gone", 3)
    usage = any_backend.remove("gone")
    assert usage.completion_tokens == 3
    assert usage.prompt_tokens > 0
    assert any_backend.remove("gone") == Usage()
    deltas += run(any_backend)
    assert text_of(deltas, "other") == alone
    assert not [delta for delta in deltas if isinstance(delta, FinishDelta) and delta.request_id == "gone"]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=4)], ids=["greedy", "seeded"])
@pytest.mark.parametrize("tokens_before", [0, 1, 7])
def test_a_pause_loses_and_changes_nothing(any_backend: MlxBackend, sampling: Sampling, tokens_before: int) -> None:
    """Paused in its prompt or in its answer and resumed, a request says what it says undisturbed; others go on meanwhile."""
    start(any_backend, ask("a", LONG_TEXT, sampling=sampling))
    deltas = any_backend.step() + step_until_text(any_backend, "a", tokens_before)
    any_backend.pause("a")
    any_backend.pause("a")
    start(any_backend, ask("other", SHORT_TEXT))
    meanwhile: list[Delta] = []
    while any_backend.stats().active == 2:
        meanwhile.extend(any_backend.step())
    assert {delta.request_id for delta in meanwhile} == {"other"}
    any_backend.resume("a")
    any_backend.resume("a")
    deltas += run(any_backend)
    assert finish_of(deltas, "a").usage.completion_tokens == sum(
        delta.tokens for delta in deltas if isinstance(delta, TextDelta)
    )
    assert text_of(deltas, "a") == answer(any_backend, ask("undisturbed", LONG_TEXT, sampling=sampling))


def test_resuming_computes_one_token_again(backend: MlxBackend) -> None:
    """A paused answer keeps its cache: nothing of its prompt is computed a second time."""
    start(backend, ask("a", LONG_TEXT))
    step_until_text(backend, "a", 3)
    prefilled = backend.stats().tokens_prefilled
    backend.pause("a")
    backend.resume("a")
    deltas = backend.step() + backend.step()
    assert [type(delta) for delta in deltas] == [TextDelta]
    assert backend.stats().tokens_prefilled == prefilled


def test_a_paused_request_can_be_cancelled(backend: MlxBackend) -> None:
    """Removing a paused request frees its slot and keeps its work for a retry."""
    start(backend, ask("a", LONG_TEXT))
    step_until_text(backend, "a", 3)
    backend.pause("a")
    assert backend.step() == []
    assert backend.remove("a").completion_tokens == 3
    start(backend, ask("b", LONG_TEXT))
    usage = finish_of(run(backend), "b").usage
    assert usage.cached_tokens == usage.prompt_tokens - 1
