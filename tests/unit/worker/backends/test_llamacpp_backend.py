"""The llama.cpp backend as the engine sees it: batching, prefix reuse, and how answers end, on the demo model."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, Usage
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import ErrorDelta, PrefillDelta, RequestError, TextDelta
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from lmx_worker.backends.llamacpp.context import DecodeFailedError
from tests.support.backend_driver import GREEDY, answer, ask, finish_of, run, start, step_until_text, text_of
from tests.support.llamacpp_models import CHUNK_TOKENS, CONTEXT_LENGTH, SLOTS, load_demo

pytestmark = pytest.mark.real

PARIS = "What is the capital of France? Answer in one sentence."
COUNTING = "".join(f"{number}, " for number in range(1, 21))
LONG = "Tell me about rivers, lakes and mountains. " * 20


@pytest.fixture(scope="module")
def loaded() -> Iterator[LlamaCppBackend]:
    """The demo model, loaded once."""
    backend = load_demo()
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: LlamaCppBackend) -> Iterator[LlamaCppBackend]:
    """The demo model with nothing running."""
    yield loaded
    for number in range(9):
        loaded.remove(f"r{number}")
    assert loaded.stats().active == 0


def raw(request_id: str, prompt: str, max_tokens: int = 8) -> GenerateRequest:
    """A request whose prompt is not templated."""
    return GenerateRequest(request_id=request_id, model_id="m", prompt=prompt, max_tokens=max_tokens, sampling=GREEDY)


def test_it_knows_the_capital_of_france(backend: LlamaCppBackend) -> None:
    """Template, tokenizer, model and text fit together: the answer is right and ends with a token that counts."""
    start(backend, ask("r1", PARIS))
    deltas = run(backend)
    assert text_of(deltas, "r1") == "The capital of France is Paris."
    finish = finish_of(deltas, "r1")
    assert (finish.reason, finish.usage.completion_tokens, finish.stop_sequence) == (FinishReason.STOP, 8, None)
    assert finish.usage.completion_tokens == sum(delta.tokens for delta in deltas if isinstance(delta, TextDelta))
    assert finish.timing.prefill_seconds > 0
    assert finish.timing.decode_seconds > 0


def test_max_tokens_ends_an_answer(backend: LlamaCppBackend) -> None:
    """The limit counts sampled tokens, and the reason says length."""
    start(backend, ask("r1", PARIS, max_tokens=3))
    deltas = run(backend)
    assert text_of(deltas, "r1") == "The capital of"
    assert finish_of(deltas, "r1").reason == FinishReason.LENGTH
    assert finish_of(deltas, "r1").usage.completion_tokens == 3


def test_a_stop_string_across_tokens_ends_an_answer(backend: LlamaCppBackend) -> None:
    """A stop string that is made of parts of several tokens is found, reported, and none of it is emitted."""
    start(backend, ask("r1", PARIS, stop=("l of Fr",)))
    deltas = run(backend)
    assert text_of(deltas, "r1") == "The capita"
    assert finish_of(deltas, "r1").stop_sequence == "l of Fr"
    assert finish_of(deltas, "r1").reason == FinishReason.STOP


def test_no_delta_carries_a_broken_character(backend: LlamaCppBackend) -> None:
    """A rare emoji is several tokens; each delta of an answer made of them holds whole ones or nothing."""
    start(backend, raw("r1", "🪐 🪐 🪐 🪐 🪐 🪐 🪐 🪐", max_tokens=24))
    deltas = run(backend)
    texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    assert "" in texts
    assert any(ord(character) > 0xFFFF for character in text_of(deltas, "r1"))
    assert not any("\ufffd" in text for text in texts[:-1])


def test_a_repeated_prompt_is_computed_once(backend: LlamaCppBackend) -> None:
    """The second time all but one token of the prompt are reused, and the answer is the same."""
    first = answer(backend, ask("r1", "Name three colours of the rainbow."))
    start(backend, ask("r2", "Name three colours of the rainbow."))
    deltas = run(backend)
    usage = finish_of(deltas, "r2").usage
    assert usage.cached_tokens == usage.prompt_tokens - 1
    assert text_of(deltas, "r2") == first


def test_a_conversation_reuses_its_past(backend: LlamaCppBackend) -> None:
    """The next turn computes the new words only."""
    question = Message(role="user", content="Name a big city in Japan.")
    start(backend, ask("r1", question.content, max_tokens=4))
    deltas = run(backend)
    computed = finish_of(deltas, "r1").usage
    reply = Message(role="assistant", content=text_of(deltas, "r1"))
    turn = (question, reply, Message(role="user", content="And one in Peru?"))
    start(backend, GenerateRequest(request_id="r2", model_id="m", messages=turn, max_tokens=1, sampling=GREEDY))
    usage = finish_of(run(backend), "r2").usage
    assert usage.cached_tokens >= computed.prompt_tokens
    assert usage.prompt_tokens - usage.cached_tokens < 25


def test_a_running_requests_prefix_is_shared(backend: LlamaCppBackend) -> None:
    """A request that begins like one that is still running copies what that one has computed, and continues it rightly."""
    start(backend, raw("r1", COUNTING + "21, 22, 23, and so on.", max_tokens=200))
    step_until_text(backend, "r1", 2)
    start(backend, raw("r2", COUNTING, max_tokens=4))
    deltas = step_until_text(backend, "r2", 4)
    usage = finish_of(deltas, "r2").usage
    assert usage.cached_tokens == usage.prompt_tokens - 1
    assert text_of(deltas, "r2") == "21, "


def test_a_cancelled_prefill_stays_reusable(backend: LlamaCppBackend) -> None:
    """A client that gives up during the prompt and tries again resumes where it was."""
    prompt = "Mountains first. " + LONG
    start(backend, ask("r1", prompt))
    backend.step()
    backend.step()
    used = backend.remove("r1")
    assert used.completion_tokens == 0
    start(backend, ask("r2", prompt, max_tokens=1))
    (first,) = (delta for delta in backend.step() if isinstance(delta, PrefillDelta))
    assert first.cached_tokens >= 2 * CHUNK_TOKENS
    assert first.done_tokens == first.cached_tokens + CHUNK_TOKENS


def test_a_long_prompt_does_not_stop_a_running_answer(backend: LlamaCppBackend) -> None:
    """While a prompt is computed chunk by chunk, every step also brings a token of the running answer."""
    start(backend, ask("r1", "Tell me a long story about a fox.", max_tokens=100))
    step_until_text(backend, "r1", 2)
    start(backend, ask("r2", "Rivers, please. " + LONG))
    for _ in range(4):
        deltas = backend.step()
        (prefill,) = (delta for delta in deltas if isinstance(delta, PrefillDelta))
        assert prefill.request_id == "r2"
        assert prefill.done_tokens < prefill.prompt_tokens
        assert [delta.request_id for delta in deltas if isinstance(delta, TextDelta)] == ["r1"]


def test_prompts_are_held_to_what_is_allowed(backend: LlamaCppBackend) -> None:
    """A limit shortens the pieces of a prompt, none at all leaves a running answer alone, and without one all is as before."""
    start(backend, ask("r1", PARIS, max_tokens=40))
    step_until_text(backend, "r1", 2)
    start(backend, ask("r2", LONG))
    steps = []
    for allowed in (5, 0, None):
        backend.limit_prefill(allowed)
        before = backend.stats()
        backend.step()
        after = backend.stats()
        steps.append((after.tokens_prefilled - before.tokens_prefilled, after.tokens_decoded - before.tokens_decoded))
    assert steps == [(5, 1), (0, 1), (CHUNK_TOKENS, 1)]


def test_it_computes_with_the_threads_it_is_given(backend: LlamaCppBackend) -> None:
    """The number reaches llama.cpp for prompts and for single tokens, and the answer stays what it is."""
    context = backend._context
    assert context is not None
    for threads in (2, 1):
        backend.use_threads(threads)
        native = (backend.api.llama_n_threads(context.handle), backend.api.llama_n_threads_batch(context.handle))
        assert native == (threads, threads)
        start(backend, ask("r1", PARIS))
        assert text_of(run(backend), "r1") == "The capital of France is Paris."


def test_prompts_share_the_chunk(backend: LlamaCppBackend) -> None:
    """Two prompts advance together, half a chunk each."""
    start(backend, ask("r1", "One. " + LONG), ask("r2", "Two. " + LONG))
    deltas = [delta for delta in backend.step() if isinstance(delta, PrefillDelta)]
    assert [delta.done_tokens - delta.cached_tokens for delta in deltas] == [CHUNK_TOKENS // 2] * 2


def test_an_answer_in_company_is_the_answer_alone() -> None:
    """Greedy text does not depend on what else is decoded in the same steps.

    Prompts are computed one by one in both cases: how a prompt is cut into batches decides over its last bits.
    """
    requests = [ask(f"r{number}", f"Write a sentence about the number {number}.") for number in range(SLOTS)]
    backend = load_demo()
    alone = [answer(backend, request) for request in requests]
    backend.close()
    backend = load_demo()
    deltas = []
    for request in requests:
        start(backend, request)
        deltas += step_until_text(backend, request.request_id, 1)
        backend.pause(request.request_id)
    for request in requests:
        backend.resume(request.request_id)
    deltas += run(backend)
    assert [text_of(deltas, request.request_id) for request in requests] == alone
    backend.close()


def test_an_answer_in_mixed_company_is_right(backend: LlamaCppBackend) -> None:
    """Prompts and answers of others in the same batches do not disturb an answer the model is sure of."""
    start(backend, ask("r1", "Tell me a long story about a fox.", max_tokens=40))
    step_until_text(backend, "r1", 2)
    start(backend, ask("r2", PARIS), ask("r3", LONG, max_tokens=8))
    assert text_of(run(backend), "r2") == "The capital of France is Paris."


def test_slots_bound_the_batch_and_cancelling_frees_one(backend: LlamaCppBackend) -> None:
    """There is room for as many requests as slots; a removed one says what it used and makes room."""
    start(backend, *(ask(f"r{number}", f"Story {number}", max_tokens=50) for number in range(SLOTS)))
    assert not backend.has_room()
    step_until_text(backend, "r0", 2)
    usage = backend.remove("r0")
    assert usage.completion_tokens == 2
    assert usage.prompt_tokens > 10
    assert backend.has_room()
    assert not any(delta.request_id == "r0" for delta in backend.step())
    assert backend.remove("r0") == Usage()


def test_a_paused_request_keeps_its_place(backend: LlamaCppBackend) -> None:
    """Nothing is computed for a paused request; resumed, it goes on as if nothing had been."""
    whole = answer(backend, ask("r1", PARIS))
    start(backend, ask("r1", PARIS))
    deltas = step_until_text(backend, "r1", 2)
    backend.pause("r1")
    assert backend.step() == []
    assert backend.stats().active == 1
    backend.resume("r1")
    assert text_of(deltas + run(backend), "r1") == whole


def test_stats_count_the_work(backend: LlamaCppBackend) -> None:
    """The heartbeat's counters grow by what was computed and sampled."""
    before = backend.stats()
    start(backend, raw("r1", "Counting: one two three", max_tokens=4))
    run(backend)
    after = backend.stats()
    assert after.tokens_decoded - before.tokens_decoded == 4
    assert after.tokens_prefilled > before.tokens_prefilled
    assert 0 < after.kv_used_ratio <= 1


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(backend: LlamaCppBackend) -> None:
    """The client learns how long the prompt is and how long it may be."""
    with pytest.raises(RequestError) as caught:
        backend.prepare(ask("r1", LONG * 5))
    assert (caught.value.code, caught.value.param) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "messages")
    assert str(CONTEXT_LENGTH) in str(caught.value)
    assert any(int(word) > CONTEXT_LENGTH for word in str(caught.value).replace(".", "").split() if word.isdigit())


def test_a_count_is_what_would_be_computed_however_long(backend: LlamaCppBackend) -> None:
    """The number of tokens that a request would be prepared with, also where that is more than the context holds."""
    for fitting in (ask("r1", PARIS), raw("r1", "Counting: one two three")):
        assert backend.count_tokens(fitting) == len(backend.prepare(fitting).tokens)
    assert backend.count_tokens(ask("r1", LONG * 5)) > CONTEXT_LENGTH


def test_max_tokens_never_passes_the_context(backend: LlamaCppBackend) -> None:
    """Unbounded and too large wishes are cut so that prompt and answer fit, to the last token."""
    for max_tokens in (None, 100_000):
        prepared = backend.prepare(ask("r1", PARIS, max_tokens=max_tokens))
        assert len(prepared.tokens) + prepared.max_tokens == CONTEXT_LENGTH


def test_an_answer_can_fill_the_context(backend: LlamaCppBackend) -> None:
    """The last token of the context can be sampled without an error."""
    prompt = "word " * (CONTEXT_LENGTH - 4)
    prepared = backend.prepare(raw("r1", prompt.strip(), max_tokens=1000))
    backend.insert(prepared)
    finish = finish_of(run(backend), "r1")
    assert finish.usage.prompt_tokens + finish.usage.completion_tokens <= CONTEXT_LENGTH
    assert finish.usage.completion_tokens >= 1


def test_an_empty_prompt_is_refused(backend: LlamaCppBackend) -> None:
    """There must be something to continue."""
    with pytest.raises(RequestError, match="prompt must not be empty"):
        backend.prepare(raw("r1", ""))


def test_full_memory_costs_the_newest_request_alone() -> None:
    """With too little memory for all, caches go first, then the newest request fails; the older one is answered."""
    backend = load_demo(cells=256)
    answer(backend, raw("r0", "cached " * 100, max_tokens=1))
    start(backend, raw("r1", "alpha " * 90, max_tokens=8), raw("r2", "omega " * 200, max_tokens=8))
    deltas = run(backend)
    (error,) = (delta for delta in deltas if isinstance(delta, ErrorDelta))
    assert (error.request_id, error.code) == ("r2", ErrorCode.OVERLOADED)
    assert finish_of(deltas, "r1").usage.completion_tokens > 0
    assert backend.has_room()
    backend.close()


def test_a_failed_computation_keeps_nothing(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """After llama.cpp failed nothing it holds is trusted: the next request computes its whole prompt, and is right."""
    assert backend._context is not None
    start(backend, ask("r1", PARIS))
    with monkeypatch.context() as patch, pytest.raises(DecodeFailedError, match="returned -3"):
        patch.setattr(backend._context, "_api", _FailingApi(backend._api))
        backend.step()
    backend.remove("r1")
    start(backend, ask("r2", PARIS))
    deltas = run(backend)
    assert finish_of(deltas, "r2").usage.cached_tokens == 0
    assert text_of(deltas, "r2") == "The capital of France is Paris."


class _FailingApi:
    """A llama.cpp whose computation fails, as a GPU's does when its memory is gone."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def llama_decode(self, *_: object) -> int:
        return -3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
