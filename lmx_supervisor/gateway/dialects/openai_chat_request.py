"""A validated chat body as neutral requests, one per choice. What cannot be done is refused here, never ignored. Pure."""

from typing import Any

import msgspec
from msgspec import Raw

from lmx_protocol.messages import GenerateRequest, Message
from lmx_supervisor.core.presets import with_system_prompt
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_chat_schema import ChatBody, ChatMessage, ContentPart, modalities_decoder
from lmx_supervisor.gateway.dialects.openai_fields import (
    as_choices,
    implied_by_effort,
    refuse_larger_context,
    sampling,
    stop_strings,
)
from lmx_supervisor.gateway.dialects.openai_inbound import invalid_value, is_given, not_supported, required
from lmx_supervisor.gateway.dialects.openai_output import output_form
from lmx_supervisor.gateway.dialects.openai_tools import earlier_calls, tools_and_choice
from lmx_supervisor.gateway.model_choice import ChosenModel

_TEMPLATES_OWN = ("messages", "tools", "add_generation_prompt")
"""Variables of a chat template that the request itself sets."""

_arguments_decoder = msgspec.json.Decoder(dict[str, Any] | None)


def to_generate_requests(body: ChatBody, request_id: str, chosen: ChosenModel) -> list[GenerateRequest]:
    """The requests that `body` asks of the model that was chosen for it. Raises `Problem` (400, with `param`)."""
    _refuse_unsupported(body)
    refuse_larger_context(body, chosen)
    tools, tool_choice = tools_and_choice(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
    messages = tuple(_to_message(message, f"messages.{index}") for index, message in enumerate(body.messages))
    if body.continue_final_message and messages[-1].role != "assistant":
        raise invalid_value("continue_final_message", "the last message is not the assistant's; there is nothing to continue.")
    request = GenerateRequest(
        request_id=request_id,
        model_id=chosen.model_id,
        messages=with_system_prompt(messages, chosen.system_prompt),
        max_tokens=body.max_completion_tokens or body.max_tokens or chosen.defaults.max_tokens,
        stop=stop_strings(body, chosen.defaults),
        sampling=sampling(body, chosen.defaults),
        tools=tools,
        tool_choice=tool_choice,
        output=output_form(body),
        logprobs=_logprobs(body),
        template_arguments=_template_arguments(body),
        continues_last_message=bool(body.continue_final_message),
    )
    return as_choices(request, body.n or 1)


def _logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise invalid_value("top_logprobs", "this needs `logprobs: true`.")
    return None


def _template_arguments(body: ChatBody) -> str:
    """What the client wants its chat template to know; the client's own arguments win over what `reasoning_effort` implies."""
    implied = implied_by_effort(body.reasoning_effort)
    given = decode_field("chat_template_kwargs", body.chat_template_kwargs, _arguments_decoder) or {}
    for name in _TEMPLATES_OWN:
        if name in given:
            raise invalid_value(f"chat_template_kwargs.{name}", "the request sets this itself; leave it out.")
    arguments = implied | given
    return msgspec.json.encode(arguments).decode() if arguments else ""


def _to_message(message: ChatMessage, param: str) -> Message:
    for field in ("function_call", "audio"):
        if is_given(getattr(message, field)):
            raise not_supported(f"{param}.{field}")
    if is_given(message.tool_calls) and message.role != "assistant":
        raise invalid_value(f"{param}.tool_calls", "only the assistant calls tools.")
    if message.role == "tool" and message.tool_call_id is None:
        raise required(f"{param}.tool_call_id")
    # `developer` is OpenAI's newer name for `system`; chat templates know only the latter.
    role = "system" if message.role == "developer" else message.role
    return Message(
        role=role,
        content=_content(message, param),
        name=message.name,
        reasoning=message.reasoning_content or message.reasoning or "",
        tool_calls=earlier_calls(message.tool_calls, f"{param}.tool_calls"),
        tool_call_id=message.tool_call_id,
    )


def _content(message: ChatMessage, param: str) -> str:
    if message.content is None:
        return message.refusal or ""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(_text(part, f"{param}.content.{index}") for index, part in enumerate(message.content))


def _text(part: ContentPart, param: str) -> str:
    if part.type not in ("text", "refusal"):
        raise not_supported(f"{param}.type", f"content parts of type {part.type[:64]!r} are not supported; send text.")
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        raise required(f"{param}.{part.type}")
    return text


def _refuse_unsupported(body: ChatBody) -> None:
    for field in ("functions", "function_call"):
        if _asks_for_functions(getattr(body, field)):
            raise not_supported(field, "this was replaced by `tools` and `tool_choice`; send those.")
    for field in ("audio", "web_search_options"):
        if is_given(getattr(body, field)):
            raise not_supported(field)
    if decode_field("modalities", body.modalities, modalities_decoder) not in (None, ["text"]):
        raise not_supported("modalities", "only ['text'] is supported.")
    if body.verbosity not in (None, "medium"):
        raise not_supported("verbosity", "only 'medium' is supported; say in the prompt how long the answer should be.")
    if body.store:
        raise not_supported("store", "chat completions are not stored; leave it out.")


def _asks_for_functions(raw: Raw) -> bool:
    return is_given(raw) and bytes(raw) != b'"none"'
