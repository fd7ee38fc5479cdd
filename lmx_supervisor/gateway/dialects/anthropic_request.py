"""A validated messages body as the neutral `GenerateRequest`. What cannot be done is refused here, never ignored. Pure."""

from typing import Any

from lmx_protocol import limits
from lmx_protocol.messages import CountRequest, GenerateRequest, Message, OutputForm, Sampling, Tool, ToolChoice
from lmx_protocol.states import OutputKind, ToolMode
from lmx_supervisor.core.load_profile import GenerationDefaults
from lmx_supervisor.core.presets import with_system_prompt
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.anthropic_blocks import object_text, system_text, to_messages
from lmx_supervisor.gateway.dialects.anthropic_schema import (
    Choice,
    CustomTool,
    MessagesBody,
    object_decoder,
    object_schema_decoder,
    stop_sequences_decoder,
    tools_decoder,
)
from lmx_supervisor.gateway.dialects.openai_inbound import invalid_value, is_given, not_supported, required
from lmx_supervisor.gateway.model_choice import ChosenModel
from lmx_supervisor.gateway.responses import to_json

_MODES = {"auto": ToolMode.AUTO, "any": ToolMode.REQUIRED, "tool": ToolMode.NAMED, "none": ToolMode.NONE}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""In the words that chat templates know."""


def to_generate_request(body: MessagesBody, request_id: str, chosen: ChosenModel) -> GenerateRequest:
    """The request that `body` asks of the model that was chosen for it. Raises `Problem` (400, with `param`).

    Where the model's backend has no template arguments, nothing is said of thinking unless it was asked for.
    """
    max_tokens = body.max_tokens or chosen.defaults.max_tokens or limits.MESSAGES_DEFAULT_MAX_TOKENS
    budget_tokens = body.thinking.budget_tokens if body.thinking is not None else None
    if budget_tokens is not None and budget_tokens >= max_tokens:
        reason = f"this must be less than max_tokens, which is {max_tokens}."
        raise invalid_value("thinking.budget_tokens", reason)
    return _request(body, request_id, chosen, max_tokens)


def to_count_request(body: MessagesBody, request_id: str, chosen: ChosenModel) -> CountRequest:
    """The question how many tokens the prompt of `body` has; as above."""
    return CountRequest(request_id=request_id, model_id=chosen.model_id, of=_request(body, request_id, chosen, None))


def _request(body: MessagesBody, request_id: str, chosen: ChosenModel, max_tokens: int | None) -> GenerateRequest:
    _refuse_unsupported(body)
    messages = to_messages(body.messages)
    system = system_text(body.system) if body.system is not None else ""
    if system:
        messages.insert(0, Message(role="system", content=system))
    stop = decode_field("stop_sequences", body.stop_sequences, stop_sequences_decoder)
    tools = decode_field("tools", body.tools, tools_decoder, bytes_max=limits.TOOLS_BYTES_MAX) or []
    return GenerateRequest(
        request_id=request_id,
        model_id=chosen.model_id,
        messages=with_system_prompt(tuple(messages), chosen.system_prompt),
        max_tokens=max_tokens,
        stop=tuple((chosen.defaults.stop or ()) if stop is None else stop),
        sampling=_sampling(body, chosen.defaults),
        tools=tuple(_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)),
        tool_choice=_tool_choice(body.tool_choice, tools),
        output=_output_form(body),
        template_arguments=_template_arguments(body) if chosen.has_template_arguments or _asks_to_think(body) else "",
        continues_last_message=bool(messages) and messages[-1].role == "assistant",
    )


def _sampling(body: MessagesBody, defaults: GenerationDefaults) -> Sampling:
    """The client's choices over the model's defaults over the vendor's default for the temperature and ours for the rest."""
    wishes: dict[str, Any] = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    given = {name: value for name, value in wishes.items() if value is not None}
    return Sampling(**({"temperature": 1.0} | defaults.sampling() | given))


def _tool(tool: CustomTool, param: str) -> Tool:
    if tool.type not in (None, "custom"):
        reason = (
            f"'{tool.type[:64]}' is a tool of Anthropic's own, which LMX does not have; define a tool with an input_schema."
        )
        raise not_supported(f"{param}.type", reason)
    if tool.name is None:
        raise required(f"{param}.name")
    if tool.defer_loading:
        raise not_supported(f"{param}.defer_loading", "there is no tool search; send the tools that the model may use.")
    if tool.allowed_callers not in (None, ["direct"]):
        raise not_supported(f"{param}.allowed_callers", "only ['direct'] is supported.")
    schema = object_text(tool.input_schema, f"{param}.input_schema")
    decode_field(f"{param}.input_schema", tool.input_schema, object_schema_decoder)
    return Tool(name=tool.name, description=_description(tool, param), parameters=schema, strict=bool(tool.strict))


def _description(tool: CustomTool, param: str) -> str:
    """The description, and the examples that the client gives: chat templates have no place of their own for these."""
    places = (f"{param}.input_examples.{index}" for index in range(len(tool.input_examples or ())))
    examples = [object_text(raw, place) for raw, place in zip(tool.input_examples or (), places, strict=True)]
    return "\n".join([*([tool.description] if tool.description else []), *(f"Example input: {text}" for text in examples)])


def _tool_choice(choice: Choice | None, tools: list[CustomTool]) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    name = ""
    if choice.type == "tool":
        if choice.name is None:
            raise required("tool_choice.name")
        name = choice.name
        if name not in {tool.name for tool in tools}:
            raise invalid_value("tool_choice.name", f"there is no tool '{name[:128]}' in tools.")
    elif choice.type == "any" and not tools:
        raise invalid_value("tool_choice", "this asks for a tool to be called, and there are no tools.")
    return ToolChoice(mode=_MODES[choice.type], name=name, parallel=not choice.disable_parallel_tool_use)


def _output_form(body: MessagesBody) -> OutputForm:
    wanted, param = body.output_format, "output_format"
    if body.output_config is not None and body.output_config.format is not None:
        wanted, param = body.output_config.format, "output_config.format"
    if wanted is None:
        return OutputForm()
    schema = object_text(wanted.schema, f"{param}.schema")
    decode_field(f"{param}.schema", wanted.schema, object_decoder)
    return OutputForm(kind=OutputKind.JSON_SCHEMA, source=schema)


def _template_arguments(body: MessagesBody) -> str:
    """Thinking is off unless it is asked for, as at the vendor; a budget and an effort are for templates that know them."""
    thinking = body.thinking
    arguments: dict[str, Any] = {"enable_thinking": thinking is not None and thinking.type in ("enabled", "adaptive")}
    if thinking is not None and thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise required("thinking.budget_tokens")
        arguments["thinking_budget"] = thinking.budget_tokens
    if body.output_config is not None and body.output_config.effort is not None:
        arguments["reasoning_effort"] = _EFFORTS[body.output_config.effort]
    return to_json(arguments).decode()


def _asks_to_think(body: MessagesBody) -> bool:
    asks_for_effort = body.output_config is not None and body.output_config.effort is not None
    return asks_for_effort or (body.thinking is not None and body.thinking.type != "disabled")


def _refuse_unsupported(body: MessagesBody) -> None:
    if body.thinking is not None and body.thinking.type == "between_tools":
        raise not_supported("thinking.type", "supported are 'enabled', 'disabled' and 'adaptive'.")
    if is_given(body.mcp_servers):
        raise not_supported("mcp_servers", "LMX connects to no MCP servers; call their tools yourself.")
    if is_given(body.container):
        raise not_supported("container", "there are no containers here; leave it out.")
