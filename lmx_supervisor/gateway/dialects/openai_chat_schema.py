"""The body of POST /v1/chat/completions as a client sends it, with every bound; see `openai_chat_request` for what it means.

Fields whose feature does not exist are looked at only to refuse them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_supervisor.gateway.dialects.openai_fields import GenerationFields, TokenCount
from lmx_supervisor.gateway.dialects.openai_inbound import ABSENT, Inbound
from lmx_supervisor.gateway.dialects.openai_tools import CallId

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ContentPart(Inbound, frozen=True, kw_only=True):
    """One part of a message's content; only what can be read exists: text, and an assistant's refusal."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(Inbound, frozen=True, kw_only=True):
    """One turn."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """Another name for `reasoning_content`."""
    tool_calls: Raw = ABSENT
    tool_call_id: CallId | None = None
    function_call: Raw = ABSENT
    audio: Raw = ABSENT


class ChatBody(GenerationFields, frozen=True, kw_only=True):
    """The whole request."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=limits.TOP_LOGPROBS_MAX)] | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: Raw = ABSENT
    continue_final_message: bool | None = None
    functions: Raw = ABSENT
    function_call: Raw = ABSENT
    audio: Raw = ABSENT
    modalities: Raw = ABSENT
    web_search_options: Raw = ABSENT
    verbosity: str | None = None
    store: bool | None = None


Modalities = list[str] | None

chat_decoder = msgspec.json.Decoder(ChatBody)
modalities_decoder: msgspec.json.Decoder[Modalities] = msgspec.json.Decoder(Modalities)
