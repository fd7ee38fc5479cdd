"""The body of POST /v1/completions as a client sends it, with every bound; `openai_completions_request` says what it means."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_supervisor.gateway.dialects.openai_fields import GenerationFields

Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
PromptTokens = Annotated[list[Token], Meta(max_length=limits.MAX_TOKENS_MAX)]


class CompletionBody(GenerationFields, frozen=True, kw_only=True):
    """The whole request."""

    prompt: Raw
    """A text or its tokens, or several of either; one of the decoders below."""
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=limits.TOP_LOGPROBS_MAX)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=limits.BEST_OF_MAX)] | None = None


completion_decoder = msgspec.json.Decoder(CompletionBody)
text_decoder = msgspec.json.Decoder(str)
texts_decoder = msgspec.json.Decoder(list[str])
tokens_decoder = msgspec.json.Decoder(PromptTokens)
token_lists_decoder = msgspec.json.Decoder(list[PromptTokens])
