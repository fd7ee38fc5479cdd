"""The body of POST /v1/chat/completions as a client sends it, with every bound. Unknown fields are ignored, null means absent.

Kept as raw JSON are fields whose feature does not exist yet (looked at only to refuse them) and containers of many small values
(decoded only when they are small enough); see `openai_chat_request`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits

ABSENT = Raw(b"null")

Role = Literal["system", "developer", "user", "assistant", "tool"]
ModelId = Annotated[str, Meta(min_length=1, max_length=limits.MODEL_ID_CHARACTERS_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenCount = Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS_MAX)]
StopString = Annotated[str, Meta(min_length=1, max_length=limits.STOP_STRING_CHARACTERS_MAX)]
StopStrings = Annotated[list[StopString], Meta(max_length=limits.STOP_STRINGS_MAX)]
TokenId = Annotated[str, Meta(pattern="^[0-9]{1,9}$")]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[dict[TokenId, Bias], Meta(max_length=limits.LOGIT_BIAS_MAX)]
Seed = Annotated[int, Meta(ge=-1, le=limits.SEED_MAX)]


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what clients send."""


class ContentPart(Inbound, frozen=True, kw_only=True):
    """One part of a message's content; only `text` parts exist so far."""

    type: str
    text: str | None = None


class ChatMessage(Inbound, frozen=True, kw_only=True):
    """One turn."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: Raw = ABSENT
    function_call: Raw = ABSENT
    audio: Raw = ABSENT


class StreamOptions(Inbound, frozen=True, kw_only=True):
    """How to stream."""

    include_usage: bool | None = None


class ResponseFormat(Inbound, frozen=True, kw_only=True):
    """The form of the answer; only `text` exists so far."""

    type: str


class ChatBody(Inbound, frozen=True, kw_only=True):
    """The whole request."""

    model: ModelId
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    """-1 asks for a random one, as in llama-server."""
    stop: Raw = ABSENT
    """See `stop_decoder`."""
    logit_bias: Raw = ABSENT
    """See `bias_decoder`."""
    user: Annotated[str, Meta(max_length=limits.USER_CHARACTERS_MAX)] | None = None
    num_ctx: TokenCount | None = None
    n: Annotated[int, Meta(ge=1, le=limits.CHOICES_MAX)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    functions: Raw = ABSENT
    function_call: Raw = ABSENT
    audio: Raw = ABSENT
    modalities: list[str] | None = None
    web_search_options: Raw = ABSENT
    grammar: Raw = ABSENT
    json_schema: Raw = ABSENT


chat_decoder = msgspec.json.Decoder(ChatBody)
stop_decoder: msgspec.json.Decoder[str | list[str] | None] = msgspec.json.Decoder(StopString | StopStrings | None)
bias_decoder: msgspec.json.Decoder[dict[str, float] | None] = msgspec.json.Decoder(Biases | None)
