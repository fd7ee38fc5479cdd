"""Embeddings on MLX decoders: pooling, batches, long inputs, and what a directory says of itself."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import EmbedRequest, ModelSpec, RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import ModelFormat, ModelTask, RankMethod
from lmx_worker.backends.base import Delta, LoadError, RequestError, ResultDelta
from lmx_worker.backends.combined import CombinedBackend
from lmx_worker.backends.mlx.embedding import create_backend
from tests.support.backend_driver import ask, finish_of, run, start, text_of
from tests.support.mlx_models import CHUNK_TOKENS, LONG_TEXT, SHORT_TEXT, SLOTS, TINY_CONTEXT_TOKENS, write_tiny_mlx_model

pytestmark = pytest.mark.real

TEXTS = (SHORT_TEXT, "the lazy dog", "0123456789")


def opened(directory: Path, *, chunk_tokens: int = CHUNK_TOKENS) -> CombinedBackend:
    """The whole backend on one directory."""
    backend = create_backend()
    backend.import_libraries()
    spec = ModelSpec(model_id="m", path=str(directory), format=ModelFormat.MLX, slots=SLOTS, prefill_chunk_tokens=chunk_tokens)
    backend.load(spec, lambda *_: None)
    return backend


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that generates."""
    return write_tiny_mlx_model(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture(scope="module")
def both(tiny: Path) -> Iterator[CombinedBackend]:
    """A backend that serves it."""
    backend = opened(tiny)
    yield backend
    backend.close()


def embed(*inputs: str | tuple[int, ...], request_id: str = "e") -> EmbedRequest:
    """A request for vectors."""
    return EmbedRequest(request_id=request_id, model_id="m", inputs=inputs)


def vectors(deltas: list[Delta], request_id: str = "e") -> list[list[float]]:
    """All vectors of a request; they must come in order, without gaps."""
    found: list[list[float]] = []
    for delta in deltas:
        if isinstance(delta, ResultDelta) and isinstance(delta.result, Vectors) and delta.request_id == request_id:
            assert len(found) == delta.result.first_index
            size = delta.result.dimensions
            numbers = struct.unpack(f"<{len(delta.result.data) // 4}f", delta.result.data)
            found += [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    return found


def answer(backend: CombinedBackend, *requests: EmbedRequest | RankRequest) -> list[Delta]:
    """What becomes of requests that come together."""
    for request in requests:
        backend.insert(backend.prepare(request))
    return run(backend)


def reference(directory: Path, tokens: list[int], pooling: str) -> list[float]:
    """The vector from the model's own body, all at once and without padding."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)
    states = model.model(mx.array([tokens])).astype(mx.float32)[0]
    pooled = {"mean": states.mean(axis=0), "last": states[-1], "first": states[0]}[pooling]
    return list((pooled / mx.linalg.norm(pooled)).tolist())


def test_a_model_that_generates_embeds_too(both: CombinedBackend, tiny: Path) -> None:
    """Inputs of different lengths in one batch: each is the mean of its own states, and the tokens are counted."""
    prepared = both.prepare(embed(*TEXTS))
    tokens = [list(given) for given in getattr(prepared, "inputs")]  # noqa: B009 - whichever kind it is
    deltas = answer(both, embed(*TEXTS))

    assert vectors(deltas) == [pytest.approx(reference(tiny, each, "mean"), abs=1e-4) for each in tokens]
    assert finish_of(deltas, "e").usage == Usage(prompt_tokens=sum(map(len, tokens)))
    assert vectors(answer(both, embed(tuple(tokens[0]))))[0] == pytest.approx(vectors(deltas)[0], abs=1e-4)


def test_a_long_input_goes_in_pieces(both: CombinedBackend, tiny: Path) -> None:
    """Its vector is that of one pass over all of it; too long for the context is refused, not cut."""
    prepared = both.prepare(embed(LONG_TEXT))
    tokens = list(getattr(prepared, "inputs")[0])  # noqa: B009 - whichever kind it is
    both.insert(prepared)
    steps = [both.step() for _ in range(-(-len(tokens) // CHUNK_TOKENS))]

    assert len(tokens) > 3 * CHUNK_TOKENS
    assert [bool(vectors(step)) for step in steps] == [False] * (len(steps) - 1) + [True]
    assert vectors(steps[-1])[0] == pytest.approx(reference(tiny, tokens, "mean"), abs=1e-4)
    with pytest.raises(RequestError) as refused:
        both.prepare(embed(LONG_TEXT * (TINY_CONTEXT_TOKENS // 50)))
    assert (refused.value.code, refused.value.param) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "input")


def test_streams_and_embeddings_do_not_touch_each_other(both: CombinedBackend) -> None:
    """Side by side they give what they give alone; the slots are shared, and a cancelled one is free."""
    start(both, ask("alone", SHORT_TEXT))
    text = text_of(run(both), "alone")
    quiet = vectors(answer(both, embed(*TEXTS)))
    start(both, ask("r", SHORT_TEXT))
    both.insert(both.prepare(embed(*TEXTS)))
    both.insert(both.prepare(embed(LONG_TEXT, request_id="gone")))
    assert not both.has_room()
    deltas = both.step()
    both.remove("gone")
    deltas += run(both)

    assert text_of(deltas, "r") == text
    assert vectors(deltas) == [pytest.approx(vector, abs=1e-4) for vector in quiet]
    assert both.has_room()


def test_it_ranks_by_cosine(both: CombinedBackend) -> None:
    """The document that is the query comes out as one."""
    request = RankRequest(request_id="e", model_id="m", query=SHORT_TEXT, documents=TEXTS)
    events = [delta.result for delta in answer(both, request) if isinstance(delta, ResultDelta)]
    scores = [value for event in events if isinstance(event, Scores) for value in event.values]

    assert {RankMethod.COSINE} == {event.method for event in events if isinstance(event, Scores)}
    assert scores[0] == pytest.approx(1.0, abs=1e-4)
    assert max(scores[1:]) < 0.999


@pytest.mark.parametrize(("mode", "pooling"), [("pooling_mode_lasttoken", "last"), ("pooling_mode_mean_tokens", "mean")])
def test_a_directory_that_says_how_it_pools_only_embeds(tmp_path: Path, mode: str, pooling: str) -> None:
    """Its pooling is used, for short inputs and for those in pieces, and it does not chat."""
    directory = write_tiny_mlx_model(tmp_path / "m")
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({mode: True, "pooling_mode_max_tokens": False}))
    backend = create_backend()
    backend.import_libraries()
    spec = ModelSpec(model_id="m", path=str(directory), format=ModelFormat.MLX, slots=SLOTS, prefill_chunk_tokens=CHUNK_TOKENS)
    facts = backend.load(spec, lambda *_: None)
    prepared = backend.prepare(embed(SHORT_TEXT, LONG_TEXT))
    tokens = [list(given) for given in getattr(prepared, "inputs")]  # noqa: B009 - whichever kind it is
    found = vectors(answer(backend, embed(SHORT_TEXT, LONG_TEXT)))

    assert (facts.tasks, facts.embedding_dimensions) == ((ModelTask.EMBED, ModelTask.RANK), len(found[0]))
    assert found == [pytest.approx(reference(directory, each, pooling), abs=1e-4) for each in tokens]
    with pytest.raises(RequestError, match="embedding model"):
        backend.prepare(ask("r", "hello"))
    backend.close()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('{"pooling_mode_max_tokens": true}', ErrorCode.MODEL_UNSUPPORTED_BACKEND),
        ('{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}', ErrorCode.MODEL_UNSUPPORTED_BACKEND),
        ("[]", ErrorCode.MODEL_UNSUPPORTED_BACKEND),
        ("{", ErrorCode.MODEL_PROBE_FAILED),
    ],
)
def test_pooling_that_cannot_be_done_is_refused(tmp_path: Path, said: str, code: ErrorCode) -> None:
    """Instead of vectors that the model's author did not mean."""
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(said)
    with pytest.raises(LoadError) as refused:
        opened(tmp_path)

    assert code == refused.value.code
