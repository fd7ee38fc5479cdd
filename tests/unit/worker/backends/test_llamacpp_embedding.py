"""Embeddings and rankings on llama.cpp: all-MiniLM-L6-v2 against its reference, a cross-encoder, and a model that generates."""

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, EmbedRequest, ModelSpec, RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import ModelFormat, ModelTask, RankMethod
from lmx_worker.backends.base import Delta, PrefillDelta, RequestError, ResultDelta, TextDelta
from lmx_worker.backends.combined import CombinedBackend
from lmx_worker.backends.llamacpp.embedding import LlamaCppReader, Pooling, create_backend, only_reads, pooling_of
from lmx_worker.backends.llamacpp.gguf_header import GgufHeader
from lmx_worker.backends.llamacpp.pairs import PairEncoder
from tests.support.backend_driver import ask, finish_of, run, start, text_of
from tests.support.llamacpp_models import CHUNK_TOKENS, CONTEXT_LENGTH, load_demo, spec_of
from tests.support.minilm import CLASSIFIER, CONTEXT_TOKENS, DIMENSIONS, Array, MiniLm, unit
from tests.support.mlx_models import smollm2_gguf

pytestmark = pytest.mark.real

TEXTS = ("The cat sits on the mat.", "A feline rests on a rug.", "Stock prices fell sharply on Monday.", "Ünïcode: naïve café!")
QUERY = "What do cats do?"


def opened(path: Path) -> CombinedBackend:
    """The whole backend on one file."""
    backend = create_backend()
    backend.load(spec_of(path), lambda *_: None)
    return backend


@pytest.fixture(scope="module")
def embedder(minilm_gguf: Path) -> Iterator[CombinedBackend]:
    """A backend that serves the embedding model."""
    backend = opened(minilm_gguf)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def both() -> Iterator[CombinedBackend]:
    """A backend that serves the demo model, which generates."""
    backend = opened(smollm2_gguf())
    yield backend
    backend.close()


def embed(*inputs: str | tuple[int, ...], request_id: str = "e", dimensions: int | None = None) -> EmbedRequest:
    """A request for vectors."""
    return EmbedRequest(request_id=request_id, model_id="m", inputs=inputs, dimensions=dimensions)


def vectors(deltas: list[Delta], request_id: str = "e") -> list[Array]:
    """All vectors of a request; they must come in order, without gaps."""
    found: list[Array] = []
    for delta in deltas:
        if isinstance(delta, ResultDelta) and isinstance(delta.result, Vectors) and delta.request_id == request_id:
            assert len(found) == delta.result.first_index
            numbers = struct.unpack(f"<{len(delta.result.data) // 4}f", delta.result.data)
            found += list(np.array(numbers, np.float32).reshape(-1, delta.result.dimensions))
    return found


def answer(backend: CombinedBackend, request: AnyRequest) -> list[Delta]:
    """What becomes of one request."""
    start(backend, request)
    return run(backend)


def scores(deltas: list[Delta]) -> tuple[RankMethod, list[float]]:
    """How a request was ranked, and every document's score."""
    events = [delta.result for delta in deltas if isinstance(delta, ResultDelta) and isinstance(delta.result, Scores)]
    (method,) = {event.method for event in events}
    return method, [value for event in events for value in event.values]


def test_vectors_agree_with_the_reference(embedder: CombinedBackend, minilm: MiniLm) -> None:
    """Several texts in few steps: each is within 0.999 of an independent computation, has length one, and its tokens count."""
    deltas = answer(embedder, embed(*TEXTS))
    found = vectors(deltas)

    assert [float(vector @ minilm.embed(text)) for vector, text in zip(found, TEXTS, strict=True)] == pytest.approx(
        [1.0] * len(TEXTS), abs=1e-3
    )
    assert [float(np.linalg.norm(vector)) for vector in found] == pytest.approx([1.0] * len(TEXTS), abs=1e-5)
    assert finish_of(deltas, "e").usage == Usage(prompt_tokens=sum(len(minilm.tokens(text)) for text in TEXTS))
    assert found[0] @ found[1] > found[0] @ found[2] + 0.3


def test_given_tokens_give_the_vector_of_their_text(embedder: CombinedBackend, minilm: MiniLm) -> None:
    """Tokens, special ones included, are computed as they are."""
    from_text, from_tokens = vectors(answer(embedder, embed(TEXTS[0], tuple(minilm.tokens(TEXTS[0])))))

    assert float(from_text @ from_tokens) == pytest.approx(1.0, abs=1e-5)


def test_dimensions_keep_the_leading_components(embedder: CombinedBackend) -> None:
    """The shorter vector is the start of the long one, of length one again."""
    (whole,) = vectors(answer(embedder, embed(TEXTS[0])))
    (short,) = vectors(answer(embedder, embed(TEXTS[0], dimensions=7)))

    assert short == pytest.approx(unit(whole[:7]), abs=1e-5)


def test_company_changes_no_vector(embedder: CombinedBackend) -> None:
    """Two requests that share steps get the vectors they get alone, and neither waits for the other's end."""
    alone = vectors(answer(embedder, embed(TEXTS[0])))[0]
    start(embedder, embed(*TEXTS * 3, request_id="many"), embed(TEXTS[0], request_id="one"))
    first_step = embedder.step()
    deltas = first_step + run(embedder)

    assert finish_of(first_step, "one")
    assert float(vectors(deltas, "one")[0] @ alone) == pytest.approx(1.0, abs=1e-4)
    assert len(vectors(deltas, "many")) == 12


def test_a_request_goes_in_small_steps_and_can_leave_between_them(embedder: CombinedBackend) -> None:
    """Each step takes a chunk's worth of inputs and counts as progress; after a cancel nothing is computed."""
    before = embedder.stats().tokens_prefilled
    start(embedder, embed(*TEXTS * 10))
    (progress,) = (delta for delta in embedder.step() if isinstance(delta, PrefillDelta))

    assert 0 < progress.done_tokens <= CHUNK_TOKENS < progress.prompt_tokens
    assert embedder.stats().tokens_prefilled == before + progress.done_tokens
    assert embedder.stats().active == 1
    assert embedder.remove("e") == Usage(prompt_tokens=progress.done_tokens)
    assert (embedder.stats().active, embedder.step()) == (0, [])
    assert embedder.remove("e") == Usage()


def test_what_it_cannot_read_is_refused(embedder: CombinedBackend) -> None:
    """Too long is not cut; and a model that only embeds does not chat, or count prompts."""
    with pytest.raises(RequestError) as refused:
        embedder.prepare(embed("ok", "word " * CONTEXT_TOKENS))
    assert (refused.value.code, refused.value.param) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "input")
    for refusing in (embedder.prepare, embedder.count_tokens):
        with pytest.raises(RequestError) as refused:
            refusing(ask("r", "hello"))
        assert (refused.value.code, refused.value.param) == (ErrorCode.NOT_SUPPORTED, "model")


def test_an_embedding_model_says_what_it_is(minilm_gguf: Path, minilm: MiniLm) -> None:
    """Its tasks, dimensions and context; it reads an input of exactly its context, alone in a step."""
    backend = create_backend()
    order = ModelSpec(model_id="m", path=str(minilm_gguf), format=ModelFormat.GGUF, slots=2, prefill_chunk_tokens=16, threads=1)
    facts = backend.load(order, lambda *_: None)
    long = (101, *[2000] * (CONTEXT_TOKENS - 2), 102)
    start(backend, embed("first", long))
    steps = [backend.step(), backend.step()]

    assert (facts.tasks, facts.embedding_dimensions) == ((ModelTask.EMBED, ModelTask.RANK), DIMENSIONS)
    assert (facts.context_length, facts.slots, facts.has_chat_template) == (CONTEXT_TOKENS, 2, False)
    assert [len(vectors(steps[0])), len(vectors(steps[0] + steps[1]))] == [1, 2]
    assert float(vectors(steps[0] + steps[1])[1] @ unit(minilm.hidden(list(long)).mean(axis=0))) > 0.999
    backend.close()


def test_an_embedding_model_ranks_by_cosine(embedder: CombinedBackend) -> None:
    """The scores are those of the vectors it gives the same texts."""
    request = RankRequest(request_id="e", model_id="m", query=QUERY, documents=TEXTS)
    method, values = scores(answer(embedder, request))
    query, *documents = vectors(answer(embedder, embed(QUERY, *TEXTS)))

    assert method is RankMethod.COSINE
    assert values == pytest.approx([float(query @ document) for document in documents], abs=1e-4)
    assert max(values[:2]) > max(values[2:])


def test_a_cross_encoder_agrees_with_the_reference(reranker_gguf: Path, minilm: MiniLm) -> None:
    """The probability of each pair, from pooler and classifier, in the order of the documents; it gives no vectors."""
    backend = opened(reranker_gguf)
    request = RankRequest(request_id="e", model_id="m", query=QUERY, documents=TEXTS)
    deltas = answer(backend, request)
    method, values = scores(deltas)

    assert method is RankMethod.CROSS_ENCODER
    assert values == pytest.approx([minilm.rank(QUERY, text, CLASSIFIER) for text in TEXTS], abs=5e-3)
    assert finish_of(deltas, "e").usage.prompt_tokens == sum(len(minilm.tokens(QUERY, text)) for text in TEXTS)
    with pytest.raises(RequestError, match="reranker"):
        backend.prepare(embed("x"))
    backend.close()


def test_a_model_that_generates_embeds_beside_its_streams(both: CombinedBackend) -> None:
    """A stream's text is the same with embeddings between its steps, and the vectors are the same as without it."""
    alone = load_demo()
    start(alone, ask("r", "Count to five."))
    text = text_of(run(alone), "r")
    alone.close()
    quiet = vectors(answer(both, embed(*TEXTS)))
    start(both, ask("r", "Count to five."), embed(*TEXTS))
    deltas = run(both)

    assert text_of(deltas, "r") == text
    assert [float(a @ b) for a, b in zip(quiet, vectors(deltas), strict=True)] == pytest.approx([1.0] * 4, abs=1e-3)
    assert any(isinstance(delta, TextDelta) for delta in deltas)


def test_a_long_input_of_a_causal_model_goes_in_pieces(both: CombinedBackend) -> None:
    """A step takes no more of it than a chunk; and it is still refused when it does not fit the context."""
    long = "The quick brown fox jumps over the lazy dog. " * 8
    start(both, embed(long, TEXTS[0]))
    steps = [both.step() for _ in range(2)]
    deltas = [delta for step in steps for delta in step] + run(both)

    assert [vectors(step) for step in steps] == [[], []]
    assert [delta.done_tokens for step in steps for delta in step if isinstance(delta, PrefillDelta)] == [
        CHUNK_TOKENS,
        2 * CHUNK_TOKENS,
    ]
    assert len(vectors(deltas)) == 2
    with pytest.raises(RequestError, match="reads 512 at a time"):
        both.prepare(embed(long * 20))


@pytest.mark.parametrize("pooling", [Pooling(3, cuts=True), Pooling(0, cuts=True)])
def test_pieces_give_the_vector_of_the_whole(pooling: Pooling) -> None:
    """A decoder that pools by its last token, or by the mean: what is computed in four pieces equals what is in one."""
    generator = load_demo()
    assert generator.weights is not None
    found = []
    for chunk_tokens in (CHUNK_TOKENS, CONTEXT_LENGTH):
        spec = msgspec.structs.replace(spec_of(smollm2_gguf()), prefill_chunk_tokens=chunk_tokens)
        reader = LlamaCppReader(generator.api, generator.weights, spec, pooling, context_length=CONTEXT_LENGTH)
        reader.insert(reader.prepare(embed("The quick brown fox jumps over the lazy dog. " * 10)))
        deltas, steps = [], 0
        while len(reader):
            deltas += reader.step()
            steps += 1
        found.append((steps, vectors(deltas)[0]))
        reader.close()
    generator.close()
    (many, in_pieces), (once, at_once) = found

    assert many >= 3
    assert once == 1
    assert float(in_pieces @ at_once) == pytest.approx(1.0, abs=1e-3)


def test_both_halves_share_the_slots(both: CombinedBackend) -> None:
    """Four slots are four requests, of whatever kind."""
    start(both, ask("r", "hi"), *(embed("x", request_id=f"e{index}") for index in range(3)))

    assert not both.has_room()
    for request_id in ("r", "e0", "e1", "e2"):
        both.remove(request_id)
    assert both.has_room()


@pytest.mark.parametrize(
    ("pooling", "is_causal", "reads_only", "expected"),
    [
        (None, True, False, Pooling(0, cuts=True)),
        (0, True, False, Pooling(0, cuts=True)),
        (None, False, True, Pooling(0, cuts=False)),
        (1, False, True, Pooling(1, cuts=False)),
        (1, True, True, Pooling(0, cuts=True)),
        (2, False, True, Pooling(2, cuts=False)),
        (3, True, True, Pooling(3, cuts=True)),
        (3, False, True, Pooling(3, cuts=False)),
        (4, True, True, Pooling(4, cuts=False)),
    ],
)
def test_pooling_is_what_the_file_says(pooling: int | None, is_causal: bool, reads_only: bool, expected: Pooling) -> None:
    """A mean over several batches is taken here; whatever sees the whole input is never cut."""
    header = GgufHeader(architecture="x", file_bytes=1, needed_bytes=1, pooling=pooling, is_causal=is_causal)

    assert (only_reads(header), pooling_of(header)) == (reads_only, expected)


class _Letters:
    """A vocabulary of characters."""

    pair_marks = ([1], [2, 3], [2])

    def __init__(self, rerank_template: str | None) -> None:
        self.rerank_template = rerank_template

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Nothing is added, and a given template is parsed."""
        assert not add_special
        assert parse_special is (self.rerank_template is not None)
        return [ord(character) for character in text]


def test_a_pair_is_made_the_way_the_model_was_trained() -> None:
    """With the file's own template, whose places are not looked for in the query; else with the vocabulary's marks."""
    template = PairEncoder(_Letters("<{query}|{document}>"))

    assert "".join(map(chr, template.tokens("{document}", "d"))) == "<{document}|d>"
    assert PairEncoder(_Letters(None)).tokens("q", "d") == [1, ord("q"), 2, 3, ord("d"), 2]
