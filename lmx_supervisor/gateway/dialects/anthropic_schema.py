"""The body of POST /v1/messages and /v1/messages/count_tokens as a client sends it, with every bound.

Unknown fields are ignored, null means absent. A content block is one struct for all types, because a type we do not know must
be named in the answer, not only refused; which fields a type needs is checked in `anthropic_blocks`. Kept as raw JSON are
values that pass through as text, and what is looked at only to refuse it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_supervisor.gateway.dialects.openai_fields import ModelId, StopStrings, TokenCount
from lmx_supervisor.gateway.dialects.openai_inbound import ABSENT, Inbound

ToolName = Annotated[str, Meta(pattern=f"^[a-zA-Z0-9_-]{{1,{limits.TOOL_NAME_CHARACTERS_MAX}}}$")]
ToolCallId = Annotated[str, Meta(min_length=1, max_length=limits.TOOL_CALL_ID_CHARACTERS_MAX)]


class Source(Inbound, frozen=True, kw_only=True):
    """Where a document's content is; only text that stands right here can be read."""

    type: str
    data: str | None = None
    content: "str | list[Block] | None" = None


class Citations(Inbound, frozen=True, kw_only=True):
    """Whether the answer is to quote a document by place."""

    enabled: bool | None = None


class Block(Inbound, frozen=True, kw_only=True):
    """One content block of any type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: ToolCallId | None = None
    name: str | None = None
    input: Raw = ABSENT
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    source: Source | None = None
    title: str | None = None
    context: str | None = None
    citations: Raw = ABSENT
    """Of a document, whether to cite (see `citations_decoder`); of a text block in the history, what it cited."""


class Turn(Inbound, frozen=True, kw_only=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class CustomTool(Inbound, frozen=True, kw_only=True):
    """A tool of the client's, or (by its `type`) one of Anthropic's own, which is refused."""

    name: ToolName | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Raw = ABSENT
    input_examples: Annotated[list[Raw], Meta(max_length=limits.TOOL_EXAMPLES_MAX)] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class Choice(Inbound, frozen=True, kw_only=True):
    """Whether tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Inbound, frozen=True, kw_only=True):
    """Whether the model thinks before it answers, and whether the client sees it."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=limits.THINKING_BUDGET_TOKENS_MIN, le=limits.MAX_TOKENS_MAX)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Inbound, frozen=True, kw_only=True):
    """The form that the answer's text is held to."""

    type: Literal["json_schema"]
    schema: Raw


class OutputConfig(Inbound, frozen=True, kw_only=True):
    """How to answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesBody(Inbound, frozen=True, kw_only=True):
    """The whole request."""

    model: ModelId | None = None
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
    system: str | list[Block] | None = None
    max_tokens: TokenCount | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    stop_sequences: Raw = ABSENT
    """See `stop_sequences_decoder`."""
    tools: Raw = ABSENT
    """See `tools_decoder`."""
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """What `output_config.format` was called in the beta."""
    mcp_servers: Raw = ABSENT
    container: Raw = ABSENT


class ObjectSchema(Inbound, frozen=True, kw_only=True):
    """As much of a tool's JSON schema as the vendor insists on."""

    type: Literal["object"]


messages_decoder = msgspec.json.Decoder(MessagesBody)
stop_sequences_decoder: msgspec.json.Decoder[list[str] | None] = msgspec.json.Decoder(StopStrings | None)
tools_decoder: msgspec.json.Decoder[list[CustomTool] | None] = msgspec.json.Decoder(
    Annotated[list[CustomTool], Meta(max_length=limits.TOOLS_MAX)] | None
)
citations_decoder: msgspec.json.Decoder[Citations | None] = msgspec.json.Decoder(Citations | None)
object_schema_decoder = msgspec.json.Decoder(ObjectSchema)
object_decoder: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
