"""From requests to inputs: what is refused, and with which words."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import EMBEDDING_RESULT_BYTES_MAX
from lmx_protocol.messages import AnyRequest, EmbedRequest, GenerateRequest, RankRequest
from lmx_worker.backends.base import RequestError
from lmx_worker.backends.input_prompts import InputEncoder

DIMENSIONS = 8


def encoder(*, is_cross_encoder: bool = False) -> InputEncoder:
    """A model that reads ten characters, each of which is a token."""

    def tokenize(text: str) -> list[int]:
        return [ord(character) % 100 for character in text]

    return InputEncoder(
        tokenize=tokenize,
        pair=(lambda query, document: tokenize(f"{query}|{document}")) if is_cross_encoder else None,
        context_length=10,
        vocabulary_size=100,
        dimensions=DIMENSIONS,
    )


def embed(*inputs: str | tuple[int, ...], dimensions: int | None = None) -> EmbedRequest:
    """A request for vectors."""
    return EmbedRequest(request_id="r", model_id="m", inputs=inputs, dimensions=dimensions)


def rank(query: str, *documents: str) -> RankRequest:
    """A request for scores."""
    return RankRequest(request_id="r", model_id="m", query=query, documents=documents)


def test_texts_are_tokenized_and_tokens_are_taken_as_they_are() -> None:
    """Nothing is added around given tokens: whoever sends tokens sends all of them."""
    assert [[97 % 100, 98 % 100], (1, 99)] == list(encoder().prepare(embed("ab", (1, 99))).inputs)


def test_a_ranking_is_the_query_and_its_documents_or_the_pairs() -> None:
    """An embedding model reads each text for itself, a cross-encoder the query with every document."""
    assert [1, 2, 1] == [len(tokens) for tokens in encoder().prepare(rank("q", "aa", "b")).inputs]
    assert [4, 3] == [len(tokens) for tokens in encoder(is_cross_encoder=True).prepare(rank("q", "aa", "b")).inputs]


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (embed("short", "x" * 11), ErrorCode.CONTEXT_LENGTH_EXCEEDED, "input"),
        (embed((1,) * 11), ErrorCode.CONTEXT_LENGTH_EXCEEDED, "input"),
        (embed(""), ErrorCode.INVALID_REQUEST, "input"),
        (embed((1, 100)), ErrorCode.INVALID_VALUE, "input"),
        (embed((-1,)), ErrorCode.INVALID_VALUE, "input"),
        (embed("a", dimensions=DIMENSIONS + 1), ErrorCode.INVALID_VALUE, "dimensions"),
        (embed(*["a"] * (EMBEDDING_RESULT_BYTES_MAX // 4 // DIMENSIONS + 1)), ErrorCode.INVALID_VALUE, "input"),
        (rank("x" * 11, "d"), ErrorCode.CONTEXT_LENGTH_EXCEEDED, "query"),
        (rank("q", "d", "x" * 11), ErrorCode.CONTEXT_LENGTH_EXCEEDED, "documents"),
        (rank("", "d"), ErrorCode.INVALID_REQUEST, "query"),
        (GenerateRequest(request_id="r", model_id="m", prompt="p"), ErrorCode.NOT_SUPPORTED, "model"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(request_: AnyRequest, code: ErrorCode, param: str) -> None:
    """Nothing is cut, guessed or left out in silence."""
    with pytest.raises(RequestError) as refused:
        encoder().prepare(request_)

    assert (code, param) == (refused.value.code, refused.value.param)


def test_a_text_of_exactly_the_context_fits() -> None:
    """There is no answer that would need room behind it."""
    assert 10 == len(encoder().prepare(embed("x" * 10)).inputs[0])


def test_a_cross_encoder_gives_no_vectors() -> None:
    """Its one output is a score; the pair that is too long names the documents."""
    for request, param in ((embed("a"), "model"), (rank("12345", "12345"), "documents")):
        with pytest.raises(RequestError) as refused:
            encoder(is_cross_encoder=True).prepare(request)
        assert param == refused.value.param
