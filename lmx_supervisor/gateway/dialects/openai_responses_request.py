"""A validated Responses body as the neutral request. What cannot be done is refused here, never ignored. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, OutputForm, Sampling, Tool, ToolChoice
from lmx_protocol.states import OutputKind, ToolMode
from lmx_supervisor.core.presets import with_system_prompt
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_fields import implied_by_effort
from lmx_supervisor.gateway.dialects.openai_inbound import invalid_value, is_given, not_supported, required
from lmx_supervisor.gateway.dialects.openai_responses_items import to_messages
from lmx_supervisor.gateway.dialects.openai_responses_schema import (
    FunctionToolIn,
    ItemIn,
    ResponsesBody,
    ResponseToolChoiceIn,
    TextFormat,
    included_decoder,
    items_decoder,
    response_choice_decoder,
    response_tools_decoder,
)
from lmx_supervisor.gateway.dialects.openai_schemas import schema_text
from lmx_supervisor.gateway.model_choice import ChosenModel
from lmx_supervisor.gateway.problem import Problem

PARAMS = {
    "messages": "input",
    "prompt": "input",
    "max_tokens": "max_output_tokens",
    "output": "text.format",
    "response_format": "text.format",
    "logprobs": "top_logprobs",
    "template_arguments": "reasoning.effort",
}
"""This dialect's names of fields that the neutral request calls otherwise."""

_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = {_LOGPROBS, "reasoning.encrypted_content"}
"""The second asks for reasoning that can be handed back; ours is plain text in the item, and can."""


def input_items(body: ResponsesBody) -> list[ItemIn]:
    """The input as items: a plain text is a user's message. Raises `Problem`."""
    given = decode_field("input", body.input, items_decoder, bytes_max=limits.BODY_BYTES_MAX)
    if given is None:
        raise required("input")
    if isinstance(given, str):
        return [ItemIn(role="user", content=given)]
    items = given if isinstance(given, list) else [given]
    if not items:
        raise Problem(ErrorCode.INVALID_REQUEST, "input: there is nothing to answer.", param="input")
    return items


def to_generate_request(
    body: ResponsesBody, request_id: str, chosen: ChosenModel, items: Sequence[ItemIn], earlier: Sequence[Message]
) -> GenerateRequest:
    """The request that `body` asks of the model that was chosen for it, going on from the `earlier` turns.

    Raises:
        Problem: 400, with `param`.
    """
    _refuse_unsupported(body)
    tools = _tools(body)
    instructions = (Message(role="system", content=body.instructions),) if body.instructions else ()
    wishes: dict[str, Any] = {"temperature": body.temperature, "top_p": body.top_p}
    given = {name: value for name, value in wishes.items() if value is not None}
    return GenerateRequest(
        request_id=request_id,
        model_id=chosen.model_id,
        messages=with_system_prompt((*instructions, *earlier, *to_messages(items)), chosen.system_prompt),
        max_tokens=body.max_output_tokens or body.max_tokens or chosen.defaults.max_tokens,
        stop=chosen.defaults.stop or (),
        sampling=Sampling(**(chosen.defaults.sampling() | given)),
        tools=_allowed(body, tools),
        tool_choice=_choice(body, tools),
        output=_output(body),
        logprobs=_logprobs(body),
        template_arguments=_template_arguments(body),
    )


def _refuse_unsupported(body: ResponsesBody) -> None:
    for field in ("conversation", "prompt", "context_management", "moderation"):
        if is_given(getattr(body, field)):
            raise not_supported(field)
    if body.background:
        raise not_supported("background", "answers are made while the client waits; stream instead.")
    if body.truncation == "auto":
        raise not_supported("truncation", "a conversation is not cut silently; only 'disabled' is supported.")
    if body.max_tool_calls is not None:
        raise not_supported("max_tool_calls", "there are no built-in tools whose calls could be counted; leave it out.")
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        raise not_supported("text.verbosity", "only 'medium' is supported; say in the prompt how long the answer should be.")
    for index, wanted in enumerate(_included(body)):
        if wanted not in _INCLUDABLE:
            raise not_supported(
                f"include.{index}", f"{wanted[:64]!r} is not supported; {' and '.join(sorted(_INCLUDABLE))} are."
            )


def _included(body: ResponsesBody) -> list[str]:
    return decode_field("include", body.include, included_decoder) or []


def _template_arguments(body: ResponsesBody) -> str:
    arguments = implied_by_effort(body.reasoning.effort if body.reasoning is not None else None)
    return msgspec.json.encode(arguments).decode() if arguments else ""


def _logprobs(body: ResponsesBody) -> int | None:
    if body.top_logprobs or _LOGPROBS in _included(body):
        return body.top_logprobs or 0
    return None


def _output(body: ResponsesBody) -> OutputForm:
    wanted = body.text.format if body.text is not None else None
    match wanted:
        case None | TextFormat(type="text"):
            return OutputForm()
        case TextFormat(type="json_object"):
            return OutputForm(kind=OutputKind.JSON_OBJECT)
        case TextFormat(type="json_schema"):
            source = schema_text(wanted.schema, "text.format.schema")
            if not source:
                raise required("text.format.schema")
            return OutputForm(kind=OutputKind.JSON_SCHEMA, source=source)
        case TextFormat(type=other):
            known = "text, json_object and json_schema"
            raise not_supported("text.format.type", f"{other[:64]!r} is not supported; {known} are.")


# --- tools ------------------------------------------------------------------------------------------------------------------


def _tools(body: ResponsesBody) -> dict[str, Tool]:
    described = decode_field("tools", body.tools, response_tools_decoder, bytes_max=limits.TOOLS_BYTES_MAX) or []
    tools: dict[str, Tool] = {}
    for index, tool in enumerate(described):
        made = _tool(tool, f"tools.{index}")
        if made.name in tools:
            raise invalid_value(f"tools.{index}.name", f"there are two tools of the name {made.name!r}.")
        tools[made.name] = made
    return tools


def _tool(tool: FunctionToolIn, param: str) -> Tool:
    if tool.type != "function":
        raise not_supported(f"{param}.type", f"tools of type {tool.type[:64]!r} are not supported; only functions are.")
    if tool.name is None:
        raise required(f"{param}.name")
    parameters = schema_text(tool.parameters, f"{param}.parameters")
    return Tool(name=tool.name, description=tool.description or "", parameters=parameters, strict=bool(tool.strict))


def _choice(body: ResponsesBody, tools: dict[str, Tool]) -> ToolChoice:
    chosen = _chosen(body)
    if not tools:
        if chosen in (None, "none", "auto"):
            return ToolChoice()
        raise invalid_value("tool_choice", "there are no tools to call; send `tools` as well.")
    parallel = body.parallel_tool_calls is not False
    if not isinstance(chosen, ResponseToolChoiceIn):
        return ToolChoice(mode=ToolMode(chosen or "auto"), parallel=parallel)
    if chosen.type == "function":
        return ToolChoice(mode=ToolMode.NAMED, name=_known(chosen.name, tools, "tool_choice.name"), parallel=parallel)
    if chosen.type == "allowed_tools":
        return ToolChoice(mode=ToolMode(chosen.mode or "auto"), parallel=parallel)
    raise not_supported("tool_choice.type", f"tools of type {chosen.type[:64]!r} are not supported; only functions are.")


def _allowed(body: ResponsesBody, tools: dict[str, Tool]) -> tuple[Tool, ...]:
    """The tools that may be called: all, unless the choice allows only some."""
    chosen = _chosen(body)
    if not isinstance(chosen, ResponseToolChoiceIn) or chosen.type != "allowed_tools":
        return tuple(tools.values())
    references = enumerate(chosen.tools or ())
    names = {_known(reference.name, tools, f"tool_choice.tools.{index}.name") for index, reference in references}
    if not names:
        raise required("tool_choice.tools")
    return tuple(tool for tool in tools.values() if tool.name in names)


def _chosen(body: ResponsesBody) -> str | ResponseToolChoiceIn | None:
    chosen: str | ResponseToolChoiceIn | None = decode_field("tool_choice", body.tool_choice, response_choice_decoder)
    return chosen


def _known(name: str | None, tools: dict[str, Tool], param: str) -> str:
    if name is None:
        raise required(param)
    if name not in tools:
        raise invalid_value(param, f"there is no tool {name!r} in `tools`.")
    return name


def echoed(body: ResponsesBody, request: GenerateRequest, metadata: dict[str, str]) -> dict[str, Any]:
    """What a response object repeats of its request."""
    wanted = body.text.format if body.text is not None else None
    text_format: dict[str, Any] = {"type": "text"}
    if wanted is not None and wanted.type == "json_schema":
        text_format = {
            "type": "json_schema",
            "name": wanted.name or "schema",
            "description": wanted.description,
            "schema": wanted.schema,
            "strict": True,
        }
    elif wanted is not None:
        text_format = {"type": wanted.type}
    effort = body.reasoning.effort if body.reasoning is not None else None
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": request.max_tokens,
        "metadata": metadata,
        "model": request.model_id,
        "parallel_tool_calls": request.tool_choice.parallel,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": effort, "summary": None},
        "store": body.store is not False,
        "temperature": request.sampling.temperature,
        "text": {"format": text_format},
        "tool_choice": body.tool_choice if is_given(body.tool_choice) else "auto",
        "tools": [_echoed_tool(tool) for tool in _tools(body).values()],
        "top_logprobs": request.logprobs or 0,
        "top_p": request.sampling.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _echoed_tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": msgspec.Raw(tool.parameters.encode()) if tool.parameters else None,
        "strict": tool.strict,
    }
