"""The body of POST /v1/responses as a client sends it, with every bound; see `openai_responses_request` for what it means.

Fields whose feature does not exist are looked at only to refuse them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_supervisor.gateway.dialects.openai_fields import ModelId, TokenCount
from lmx_supervisor.gateway.dialects.openai_inbound import ABSENT, Inbound
from lmx_supervisor.gateway.dialects.openai_tools import CallId, ToolName

Role = Literal["system", "developer", "user", "assistant"]
ResponseId = Annotated[str, Meta(min_length=1, max_length=limits.REQUEST_ID_CHARACTERS_MAX)]
Label = Annotated[str, Meta(max_length=limits.USER_CHARACTERS_MAX)]


class PartIn(Inbound, frozen=True, kw_only=True):
    """One part of an item's content; only what can be read exists: text, and an assistant's refusal."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ItemIn(Inbound, frozen=True, kw_only=True):
    """One item of the input: a message, what the model thought, a call of a tool, or a tool's answer."""

    type: str = "message"
    role: Role | None = None
    content: str | list[PartIn] | None = None
    call_id: CallId | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[PartIn] | None = None


class FunctionToolIn(Inbound, frozen=True, kw_only=True):
    """A tool as the client describes it; only functions exist."""

    type: str
    name: ToolName | None = None
    description: str | None = None
    parameters: Raw = ABSENT
    strict: bool | None = None


class ResponseToolChoiceIn(Inbound, frozen=True, kw_only=True):
    """A choice that is more than a word."""

    type: str
    name: ToolName | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list["ResponseToolChoiceIn"] | None = None


class TextFormat(Inbound, frozen=True, kw_only=True):
    """What the answer's text is held to."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: Raw = ABSENT
    strict: bool | None = None


class TextOptions(Inbound, frozen=True, kw_only=True):
    """How the answer's text should be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(Inbound, frozen=True, kw_only=True):
    """How much the model should think."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesBody(Inbound, frozen=True, kw_only=True):
    """The whole request."""

    model: ModelId | None = None
    input: Raw = ABSENT
    instructions: str | None = None
    previous_response_id: ResponseId | None = None
    stream: bool | None = None
    store: bool | None = None
    max_output_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    """Another name for `max_output_tokens`, of LMX's predecessor."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: Raw = ABSENT
    top_logprobs: Annotated[int, Meta(ge=0, le=limits.TOP_LOGPROBS_MAX)] | None = None
    metadata: Raw = ABSENT
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    conversation: Raw = ABSENT
    prompt: Raw = ABSENT
    max_tool_calls: int | None = None
    context_management: Raw = ABSENT
    moderation: Raw = ABSENT


Included = Annotated[list[str], Meta(max_length=32)]
Metadata = Annotated[dict[str, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]

responses_decoder = msgspec.json.Decoder(ResponsesBody)
items_decoder = msgspec.json.Decoder(str | Annotated[list[ItemIn], Meta(max_length=limits.MESSAGES_MAX)] | ItemIn | None)
response_tools_decoder = msgspec.json.Decoder(Annotated[list[FunctionToolIn], Meta(max_length=limits.TOOLS_MAX)] | None)
response_choice_decoder = msgspec.json.Decoder(Literal["none", "auto", "required"] | ResponseToolChoiceIn | None)
included_decoder = msgspec.json.Decoder(Included | None)
metadata_decoder = msgspec.json.Decoder(Metadata | None)
