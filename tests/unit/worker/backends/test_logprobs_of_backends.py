"""Log-probabilities of real backends against the models' logits, computed here and independently of the backends."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx_protocol.messages import OutputForm, Sampling, TokenLogprob
from lmx_protocol.states import OutputKind
from lmx_worker.backends.base import Backend, Delta, FinishDelta, TextDelta
from tests.support.backend_driver import ask, finish_of, run, start, step_until_text, text_of
from tests.support.llamacpp_models import CHUNK_TOKENS, load_demo
from tests.support.mlx_models import load_mlx, smollm2_gguf, write_tiny_mlx_model

TOLERANCE = 1e-3
ALTERNATIVES = 4
ENDLESS = ((0, -100.0), (2, -100.0))
"""A bias against both models' end tokens, so that there is something to tell."""
GREEDY = Sampling(temperature=0.0, logit_bias=ENDLESS)
Logits = Callable[[Sequence[int], Sequence[int]], Any]
"""From a prompt and the answer to it to the logits that each token of the answer was sampled from, a row for each."""


@dataclass
class Model:
    """A backend, the same model beside it, and the bytes of each of its tokens."""

    backend: Backend
    logits: Logits
    token_of: dict[bytes, int]


class NativeLlama:
    """The demo model in a llama.cpp context of our own."""

    def __init__(self) -> None:
        import llama_cpp.llama_cpp as api

        self._api = api
        self._model = api.llama_model_load_from_file(str(smollm2_gguf()).encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 256
        params.n_threads = params.n_threads_batch = 1
        self._context = api.llama_init_from_model(self._model, params)
        self._size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> Any:
        """Prompt in the backend's chunks, answer token by token: other sizes of batches give other last bits."""
        api = self._api
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        chunks = [prompt[start : start + CHUNK_TOKENS] for start in range(0, len(prompt), CHUNK_TOKENS)]
        rows = []
        for tokens in (*chunks, *([token] for token in answer[:-1])):
            array = (api.llama_token * len(tokens))(*tokens)
            batch = api.llama_batch_get_one(array, len(tokens))
            assert api.llama_decode(self._context, batch) == 0
            rows.append(np.ctypeslib.as_array(api.llama_get_logits_ith(self._context, -1), shape=(self._size,)).copy())
        return np.stack(rows[len(chunks) - 1 :])

    def close(self) -> None:
        """Free both."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)


def mlx_logits(directory: Path) -> Logits:
    """The tiny model, loaded by mlx-lm itself; one forward pass without a cache."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)

    def logits(prompt: Sequence[int], answer: Sequence[int]) -> Any:
        rows = model(mx.array([[*prompt, *answer[:-1]]]))[0].astype(mx.float32)
        return np.array(rows)[len(prompt) - 1 :]

    return logits


@pytest.fixture(scope="module")
def llama() -> Iterator[Model]:
    """The demo model on llama.cpp."""
    backend, native = load_demo(), NativeLlama()
    weights = backend._weights
    assert weights is not None
    yield Model(backend, native.logits, {weights.token_text(token): token for token in range(weights.vocabulary_size)})
    native.close()
    backend.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The tiny model on MLX."""
    directory = write_tiny_mlx_model(tmp_path_factory.mktemp("model"), can_write_everything=True)
    backend = load_mlx(directory)
    encoder, loaded = backend._encoder, backend._loaded
    assert encoder is not None
    assert loaded is not None
    yield Model(backend, mlx_logits(directory), {encoder.token_bytes(token): token for token in range(loaded.vocabulary_size)})
    backend.close()


@pytest.fixture(params=[pytest.param("llama", marks=pytest.mark.real), "tiny"])
def model(request: pytest.FixtureRequest) -> Model:
    """One after the other."""
    found: Model = request.getfixturevalue(request.param)
    return found


def entries(deltas: list[Delta]) -> list[TokenLogprob]:
    """All log-probabilities of the one request."""
    return [entry for delta in deltas if isinstance(delta, TextDelta) for entry in delta.logprobs]


def whole(text: str) -> str:
    """Only whole characters: how many replacement characters broken ones make is up to the decoder."""
    return text.replace("\ufffd", "")


def check(model: Model, prompt: Sequence[int], told: list[TokenLogprob]) -> None:
    """Raise unless every number agrees with the model's own."""
    answer = [model.token_of[entry.token] for entry in told]
    rows = model.logits(prompt, answer).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    for row, token, entry in zip(rows, answer, told, strict=True):
        assert entry.logprob == pytest.approx(row[token], abs=TOLERANCE)
        values = [other.logprob for other in entry.alternatives]
        assert values == pytest.approx(np.sort(row)[::-1][:ALTERNATIVES].tolist(), abs=TOLERANCE)
        assert values == pytest.approx([row[model.token_of[other.token]] for other in entry.alternatives], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("question", "sampling", "expression"),
    [
        ("Tell me about the lazy dog.", GREEDY, ""),
        ("What is a fox?", Sampling(temperature=1.5, seed=3, top_k=20, repeat_penalty=1.2, logit_bias=ENDLESS), ""),
        ("Which number?", Sampling(temperature=0.0, logit_bias=((20, 50.0),)), "[0-9]{8} [a-z]{12}"),
    ],
    ids=["greedy", "hot with penalties", "bias and form"],
)
def test_they_are_those_of_the_model(model: Model, question: str, sampling: Sampling, expression: str) -> None:
    """Whatever is done to the logits before sampling, what is told are the model's own, of the token and of the likeliest."""
    form = OutputForm(kind=OutputKind.REGEX if expression else OutputKind.TEXT, source=expression)
    request = ask("a", question, max_tokens=10, sampling=sampling, output=form, logprobs=ALTERNATIVES)
    prompt = model.backend.prepare(request).tokens
    start(model.backend, request)
    deltas = run(model.backend)
    told = entries(deltas)
    assert len(told) == finish_of(deltas, "a").usage.completion_tokens
    assert whole(b"".join(entry.token for entry in told).decode(errors="replace")) == whole(text_of(deltas, "a"))
    check(model, prompt, told)


def test_they_survive_pauses(model: Model) -> None:
    """Paused after each token, a request tells of each token once, and rightly."""
    request = ask("a", "Five dozen liquor jugs?", max_tokens=6, sampling=GREEDY, logprobs=ALTERNATIVES)
    prompt = model.backend.prepare(request).tokens
    start(model.backend, request)
    deltas: list[Delta] = []
    while not any(isinstance(delta, FinishDelta) for delta in deltas):
        deltas += step_until_text(model.backend, "a", 1)
        model.backend.pause("a")
        model.backend.resume("a")
    told = entries(deltas)
    assert len(told) == 6
    check(model, prompt, told)


def test_only_who_asks_is_told(model: Model) -> None:
    """Beside a request that wants three alternatives run one that wants none and one that wants nothing."""
    start(
        model.backend,
        ask("a", "The fox.", max_tokens=4, sampling=GREEDY, logprobs=3),
        ask("b", "The dog.", max_tokens=4, sampling=GREEDY, logprobs=0),
        ask("c", "The box.", max_tokens=4, sampling=GREEDY),
    )
    deltas = run(model.backend)
    of = {name: entries([delta for delta in deltas if delta.request_id == name]) for name in "abc"}
    assert {len(entry.alternatives) for entry in of["a"]} == {3}
    assert {len(entry.alternatives) for entry in of["b"]} == {0}
    assert of["c"] == []
