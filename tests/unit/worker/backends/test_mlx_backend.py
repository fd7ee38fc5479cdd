"""The MLX backend as the engine sees it: loading, batching, chunks, and how answers end, on tiny random models."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from lmx_protocol.messages import GenerateRequest, ModelSpec, Sampling, Usage
from lmx_protocol.states import FinishReason, ModelFormat
from lmx_worker.backends.base import Backend, PrefillDelta, Prepared, RequestError, TextDelta
from lmx_worker.backends.mlx.backend import MlxBackend
from tests.support.backend_driver import answer, ask, finish_of, run, start, step_until_text, text_of
from tests.support.mlx_models import (
    CHUNK_TOKENS,
    LONG_TEXT,
    SHORT_TEXT,
    SLOTS,
    TINY_CONTEXT_TOKENS,
    convert_smollm2_gguf,
    load_mlx,
    smollm2_gguf,
    write_tiny_mlx_model,
)


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


def test_it_is_a_backend() -> None:
    """The class has every method the engine calls."""
    assert isinstance(MlxBackend(), Backend)


def test_load_reports_facts_and_bytes(tiny: Path) -> None:
    """Progress counts the bytes on disk up to all of them, and the facts are the model's own."""
    seen: list[tuple[str, int, int]] = []
    backend = MlxBackend()
    version = backend.import_libraries()
    spec = ModelSpec(model_id="m", path=str(tiny), format=ModelFormat.MLX, context_length=100_000, slots=2)
    facts = backend.load(spec, lambda *progress: seen.append(progress))
    size = (tiny / "model.safetensors").stat().st_size
    assert seen[0] == ("weights", 0, size)
    assert seen[-1] == ("weights", size, size)
    assert (facts.backend, facts.backend_version, facts.architecture) == ("mlx", version, "llama")
    assert facts.context_length == facts.train_context_length == TINY_CONTEXT_TOKENS
    assert facts.vocabulary_size == 160
    assert facts.has_chat_template
    assert facts.slots == 2
    backend.close()


@pytest.mark.parametrize("model_type", ["llama", "lfm2"])
def test_together_equals_alone(tmp_path: Path, model_type: str) -> None:
    """Requests of different lengths in one batch, prompt and answer, say what each says alone, and each ends once."""
    texts = {"a": LONG_TEXT, "b": SHORT_TEXT, "c": "lazy dog"}
    model = write_tiny_mlx_model(tmp_path / "model", model_type=model_type)
    batching, alone = load_mlx(model), load_mlx(model)
    start(batching, *(ask(name, text) for name, text in texts.items()))
    deltas = run(batching)
    for name, text in texts.items():
        assert text_of(deltas, name) == answer(alone, ask(name, text))
        usage = finish_of(deltas, name).usage
        assert usage.completion_tokens == sum(
            delta.tokens for delta in deltas if isinstance(delta, TextDelta) and delta.request_id == name
        )
    batching.close()
    alone.close()


def test_a_long_prompt_does_not_stop_a_stream(backend: MlxBackend) -> None:
    """While a prompt of many chunks is computed, the running request gets a token in every step."""
    start(backend, ask("stream", SHORT_TEXT, max_tokens=60))
    step_until_text(backend, "stream", 2)
    start(backend, ask("long", LONG_TEXT))
    steps_with_both = 0
    while backend.stats().active == 2:
        kinds = {(type(delta), delta.request_id) for delta in backend.step()}
        if (PrefillDelta, "long") in kinds:
            assert (TextDelta, "stream") in kinds
            steps_with_both += 1
    run(backend)
    assert steps_with_both >= 5


def test_a_chunk_is_shared_by_the_prompts_in_progress(backend: MlxBackend) -> None:
    """Two prompts together advance by at most one chunk a step, and by equal parts."""
    start(backend, ask("a", LONG_TEXT), ask("b", LONG_TEXT + SHORT_TEXT))
    first = [delta.done_tokens for delta in backend.step() if isinstance(delta, PrefillDelta)]
    assert first == [CHUNK_TOKENS // 2, CHUNK_TOKENS // 2]


def test_prompts_are_held_to_what_is_allowed(backend: MlxBackend) -> None:
    """A limit shortens the pieces of a prompt; mlx-lm takes at least a token, and without a limit a chunk again."""
    start(backend, ask("r1", LONG_TEXT))
    done = [0]
    for allowed in (5, 0, None):
        backend.limit_prefill(allowed)
        backend.step()
        done.append(backend.stats().tokens_prefilled)
    assert [after - before for before, after in pairwise(done)] == [5, 1, CHUNK_TOKENS]


def test_prefill_progress_ends_at_the_prompt(backend: MlxBackend) -> None:
    """Progress grows to exactly the length of the prompt, and the counters agree."""
    prepared = backend.prepare(ask("a", LONG_TEXT))
    backend.insert(prepared)
    done = [delta.done_tokens for delta in run(backend) if isinstance(delta, PrefillDelta)]
    assert done == sorted(set(done))
    assert done[-1] == len(prepared.tokens) == backend.stats().tokens_prefilled


def test_slots_bound_what_runs(backend: MlxBackend) -> None:
    """There is room until every slot is taken, and again when one is freed."""
    for index in range(SLOTS):
        assert backend.has_room()
        start(backend, ask(str(index), SHORT_TEXT))
    assert not backend.has_room()
    backend.remove("0")
    assert backend.has_room()
    with pytest.raises(RequestError):
        start(backend, ask("1", SHORT_TEXT))


def test_an_idle_backend_does_nothing(backend: MlxBackend) -> None:
    """Without requests a step is empty, and removing, pausing and resuming unknown ids is harmless."""
    assert backend.step() == []
    assert backend.remove("nobody") == Usage()
    backend.pause("nobody")
    backend.resume("nobody")
    assert backend.stats().active == 0


def test_a_stop_string_ends_the_answer(backend: MlxBackend) -> None:
    """The answer ends right before a string that begins inside one token and ends inside another, and names it."""
    whole = answer(backend, ask("whole", LONG_TEXT))
    stop = whole[9:14]
    start(backend, ask("a", LONG_TEXT, stop=("never said", stop)), ask("b", LONG_TEXT))
    deltas = run(backend)
    finish = finish_of(deltas, "a")
    assert text_of(deltas, "a") == whole[: whole.index(stop)]
    assert (finish.reason, finish.stop_sequence) == (FinishReason.STOP, stop)
    assert text_of(deltas, "b") == whole


def test_the_end_of_sequence_token_ends_the_answer(backend: MlxBackend) -> None:
    """A model that wants to end is let end: reason stop, one silent token, nothing of it in the text."""
    end = 2
    start(backend, ask("a", SHORT_TEXT, sampling=Sampling(temperature=0.0, logit_bias=((end, 1000.0),))))
    deltas = run(backend)
    finish = finish_of(deltas, "a")
    assert text_of(deltas, "a") == ""
    assert (finish.reason, finish.stop_sequence, finish.usage.completion_tokens) == (FinishReason.STOP, None, 1)


def test_length_ends_the_answer(backend: MlxBackend) -> None:
    """Exactly max_tokens tokens are sampled, the reason is length and the timing is real."""
    start(backend, ask("a", SHORT_TEXT, max_tokens=5))
    finish = finish_of(run(backend), "a")
    assert (finish.reason, finish.usage.completion_tokens) == (FinishReason.LENGTH, 5)
    assert finish.timing.prefill_seconds > 0
    assert finish.timing.decode_seconds > 0


def test_a_seed_gives_the_same_answer_in_any_company(backend: MlxBackend) -> None:
    """A seeded request says the same alone, repeated, and beside others; another seed says something else."""
    seeded = Sampling(temperature=1.0, seed=21)
    alone = answer(backend, ask("a", LONG_TEXT, sampling=seeded))
    start(backend, ask("x", SHORT_TEXT, sampling=Sampling(temperature=1.0)), ask("b", LONG_TEXT, sampling=seeded))
    assert text_of(run(backend), "b") == alone
    assert answer(backend, ask("c", LONG_TEXT, sampling=Sampling(temperature=1.0, seed=22))) != alone


def test_everything_works_on_a_thread_of_its_own(tiny: Path) -> None:
    """The engine thread is not the main thread: importing, loading, stepping and closing all happen there."""

    def life() -> str:
        backend = load_mlx(tiny)
        text = answer(backend, ask("a", SHORT_TEXT, sampling=Sampling(temperature=1.0, top_p=0.9, min_p=0.01, seed=1)))
        backend.close()
        return text

    with ThreadPoolExecutor(max_workers=1) as engine_thread:
        assert engine_thread.submit(life).result() != ""


def test_a_failed_step_poisons_nothing(backend: MlxBackend) -> None:
    """After a step that raised, what ran in it can be removed, none of it is reused, and the next answer is right."""
    whole = answer(backend, ask("before", SHORT_TEXT))
    start(backend, ask("running", LONG_TEXT))
    step_until_text(backend, "running", 2)
    indices_mlx_refuses = [0.5] * CHUNK_TOKENS
    backend.insert(Prepared(request=ask("poison", "not tokens"), tokens=indices_mlx_refuses, max_tokens=4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="integ"):
        run(backend)
    assert backend.step() == []
    assert backend.remove("running").completion_tokens >= 2
    assert backend.remove("poison").completion_tokens == 0
    assert answer(backend, ask("after", SHORT_TEXT)) == whole
    start(backend, ask("retry", LONG_TEXT))
    assert finish_of(run(backend), "retry").usage.cached_tokens < CHUNK_TOKENS


@pytest.mark.real
def test_smollm2_knows_the_capital_of_france(tmp_path: Path) -> None:
    """The demo model, converted from its GGUF, gives the answer llama.cpp gives from that GGUF."""
    question = "What is the capital of France? Answer in one sentence."
    # pytest keeps its directories for three runs; a quarter of a gigabyte should not stay that long.
    with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
        backend = load_mlx(convert_smollm2_gguf(smollm2_gguf(), Path(directory) / "smollm2"))
        start(backend, ask("a", question))
        deltas = run(backend)
        backend.close()
    assert text_of(deltas, "a") == "The capital of France is Paris."
    assert finish_of(deltas, "a").reason == FinishReason.STOP


def test_logit_bias_reaches_the_model(backend: MlxBackend) -> None:
    """One token is forced by its bias; banned, it leaves the word to the next likely one."""
    f, o = (backend.prepare(GenerateRequest(request_id="x", model_id="m", prompt=letter)).tokens[0] for letter in "fo")
    forced = Sampling(temperature=0.0, logit_bias=((f, 1000.0), (o, 500.0)))
    banned = Sampling(temperature=0.0, logit_bias=((f, -1000.0), (o, 500.0)))
    assert answer(backend, ask("a", SHORT_TEXT, max_tokens=4, sampling=forced)) == "ffff"
    assert answer(backend, ask("b", SHORT_TEXT, max_tokens=4, sampling=banned)) == "oooo"
