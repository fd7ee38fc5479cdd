"""The body of POST /v1/embeddings as a client sends it, with every bound, and as the neutral request. Pure.

`input` is a text, texts, the tokens of a text, or the tokens of several. It is kept raw and decoded by what it begins with, so
that what does not fit is found where it stands instead of being built first.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_protocol.messages import EmbedRequest
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_fields import ModelId
from lmx_supervisor.gateway.dialects.openai_inbound import Inbound, invalid_value
from lmx_supervisor.gateway.problem import EdgeCode, Problem

Text = Annotated[str, Meta(min_length=1)]
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[Token], Meta(min_length=1)]
_MANY = Meta(min_length=1, max_length=limits.EMBEDDING_INPUTS_MAX)

_text_decoder: msgspec.json.Decoder[str] = msgspec.json.Decoder(Text)
_texts_decoder: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(Annotated[list[Text], _MANY])
_tokens_decoder: msgspec.json.Decoder[list[int]] = msgspec.json.Decoder(Tokens)
_token_lists_decoder: msgspec.json.Decoder[list[list[int]]] = msgspec.json.Decoder(Annotated[list[Tokens], _MANY])


class EmbeddingBody(Inbound, frozen=True, kw_only=True):
    """The whole request."""

    model: ModelId | None = None
    input: Raw
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=limits.EMBEDDING_DIMENSIONS_MAX)] | None = None
    user: Annotated[str, Meta(max_length=limits.USER_CHARACTERS_MAX)] | None = None


embedding_decoder = msgspec.json.Decoder(EmbeddingBody)


def to_embed_request(body: EmbeddingBody, request_id: str, model_id: str) -> EmbedRequest:
    """The request that `body` asks for. Raises `Problem` (400, with `param`)."""
    return EmbedRequest(request_id=request_id, model_id=model_id, inputs=_inputs(body.input), dimensions=body.dimensions)


def _inputs(raw: Raw) -> tuple[str | tuple[int, ...], ...]:
    data = bytes(raw)
    if data in (b'""', b"null"):
        raise _nothing()
    if data.startswith(b"["):
        first = data[1:].lstrip()[:1]
        if first == b"]":
            raise _nothing()
        if first == b'"':
            texts = decode_field("input", raw, _texts_decoder, bytes_max=limits.TEXTS_BYTES_MAX)
            return tuple(texts)
        _check_token_count(data)
        if first == b"[":
            lists = decode_field("input", raw, _token_lists_decoder, bytes_max=limits.TEXTS_BYTES_MAX)
            return tuple(tuple(each) for each in lists)
        tokens = decode_field("input", raw, _tokens_decoder, bytes_max=limits.TEXTS_BYTES_MAX)
        return (tuple(tokens),)
    return (decode_field("input", raw, _text_decoder, bytes_max=limits.TEXTS_BYTES_MAX),)


def _check_token_count(data: bytes) -> None:
    # Counted before they are built: a million numbers or empty lists take long enough for every stream to notice.
    if data.count(b",") > limits.EMBEDDING_TOKENS_MAX:
        raise invalid_value(
            "input", f"these are more than {limits.EMBEDDING_TOKENS_MAX} tokens; send them in several requests."
        )
    if data.count(b"[") > limits.EMBEDDING_INPUTS_MAX + 1:
        raise invalid_value("input", f"these are more than {limits.EMBEDDING_INPUTS_MAX} inputs; send several requests.")


def _nothing() -> Problem:
    return Problem(EdgeCode.INVALID_INPUT, "input: there is nothing to embed; send a text.", param="input")
