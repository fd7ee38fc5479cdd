"""OpenAI's tools, the choice among them, and the calls in a conversation, as the neutral request has them. Pure."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_protocol.messages import Tool, ToolCall, ToolChoice
from lmx_protocol.states import ToolMode
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_inbound import ABSENT, Inbound, invalid_value, is_given, not_supported, required
from lmx_supervisor.gateway.dialects.openai_schemas import schema_text

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
CallId = Annotated[str, Meta(min_length=1, max_length=limits.TOOL_CALL_ID_CHARACTERS_MAX)]


class FunctionIn(Inbound, frozen=True, kw_only=True):
    """A function as the client describes it."""

    name: ToolName
    description: str | None = None
    parameters: Raw = ABSENT
    strict: bool | None = None


class ToolIn(Inbound, frozen=True, kw_only=True):
    """A tool of the request; only functions exist."""

    type: str
    function: FunctionIn | None = None


class CalledFunction(Inbound, frozen=True, kw_only=True):
    """What an earlier answer called, perhaps another server's."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: str


class ToolCallIn(Inbound, frozen=True, kw_only=True):
    """A call in an earlier answer."""

    id: CallId
    type: str = "function"
    function: CalledFunction | None = None


class NamedFunction(Inbound, frozen=True, kw_only=True):
    """A function by its name."""

    name: ToolName


class ToolReference(Inbound, frozen=True, kw_only=True):
    """A tool of the request by its name."""

    type: str
    function: NamedFunction | None = None


class AllowedTools(Inbound, frozen=True, kw_only=True):
    """Some of the tools, of which the model may or must call one."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolReference], Meta(min_length=1, max_length=limits.TOOLS_MAX)]


class ToolChoiceIn(Inbound, frozen=True, kw_only=True):
    """A choice that is more than a word."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


_tools_decoder = msgspec.json.Decoder(Annotated[list[ToolIn], Meta(max_length=limits.TOOLS_MAX)] | None)
_choice_decoder = msgspec.json.Decoder(Literal["none", "auto", "required"] | ToolChoiceIn | None)
_calls_decoder = msgspec.json.Decoder(Annotated[list[ToolCallIn], Meta(max_length=limits.TOOL_CALLS_MAX)] | None)


def tools_and_choice(tools: Raw, choice: Raw, *, parallel: bool | None) -> tuple[tuple[Tool, ...], ToolChoice]:
    """What may be called and whether it must be. Raises `Problem`."""
    known = _tools(tools)
    chosen = decode_field("tool_choice", choice, _choice_decoder)
    if not known:
        if chosen in (None, "none", "auto"):
            return (), ToolChoice()
        raise invalid_value("tool_choice", "there are no tools to call; send `tools` as well.")
    may_be_parallel = parallel is not False
    if chosen is None or isinstance(chosen, str):
        return known, ToolChoice(mode=ToolMode(chosen or "auto"), parallel=may_be_parallel)
    if chosen.type == "function" and chosen.function is not None:
        name = _known_name(chosen.function, known, "tool_choice.function.name")
        return known, ToolChoice(mode=ToolMode.NAMED, name=name, parallel=may_be_parallel)
    if chosen.type == "allowed_tools" and chosen.allowed_tools is not None:
        names = _allowed_names(chosen.allowed_tools.tools, known)
        allowed = tuple(tool for tool in known if tool.name in names)
        return allowed, ToolChoice(mode=ToolMode(chosen.allowed_tools.mode), parallel=may_be_parallel)
    if chosen.type in ("function", "allowed_tools"):
        raise required(f"tool_choice.{chosen.type}")
    raise not_supported("tool_choice.type", f"tools of type {chosen.type!r} are not supported; only functions are.")


def earlier_calls(raw: Raw, param: str) -> tuple[ToolCall, ...]:
    """The `tool_calls` of an assistant's message, which `param` names. Raises `Problem`."""
    calls = decode_field(param, raw, _calls_decoder, bytes_max=limits.TOOL_CALLS_BYTES_MAX) or []
    for index, call in enumerate(calls):
        _require_function(call.type, call.function, f"{param}.{index}")
    return tuple(
        ToolCall(call_id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in calls
        if call.function is not None
    )


def _tools(raw: Raw) -> tuple[Tool, ...]:
    if not is_given(raw):
        return ()
    described = decode_field("tools", raw, _tools_decoder, bytes_max=limits.TOOLS_BYTES_MAX) or []
    tools: dict[str, Tool] = {}
    for index, tool in enumerate(described):
        _require_function(tool.type, tool.function, f"tools.{index}")
        assert tool.function is not None
        function, param = tool.function, f"tools.{index}.function"
        if function.name in tools:
            raise invalid_value(f"{param}.name", f"there are two tools of the name {function.name!r}.")
        tools[function.name] = Tool(
            name=function.name,
            description=function.description or "",
            parameters=schema_text(function.parameters, f"{param}.parameters"),
            strict=bool(function.strict),
        )
    return tuple(tools.values())


def _require_function(kind: str, function: object, param: str) -> None:
    if kind != "function":
        raise not_supported(f"{param}.type", f"tools of type {kind!r} are not supported; only functions are.")
    if function is None:
        raise required(f"{param}.function")


def _allowed_names(references: Sequence[ToolReference], known: Sequence[Tool]) -> set[str]:
    names = set()
    for index, reference in enumerate(references):
        param = f"tool_choice.allowed_tools.tools.{index}"
        _require_function(reference.type, reference.function, param)
        assert reference.function is not None
        names.add(_known_name(reference.function, known, f"{param}.function.name"))
    return names


def _known_name(function: NamedFunction, known: Sequence[Tool], param: str) -> str:
    if all(tool.name != function.name for tool in known):
        raise invalid_value(param, f"there is no tool {function.name!r} in `tools`.")
    return function.name
