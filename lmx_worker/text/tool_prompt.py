"""How a model whose template does not speak of tools is told about them: LMX's own prompt.

    You can call these tools:
    {"name": "get_weather", "description": "…", "parameters": {…}}

    To call one, write:
    <tool_call>
    {"name": "get_weather", "arguments": {…}}
    </tool_call>

It stands at the end of the system message. Earlier calls are shown in the same form, in the assistant's own turns; results are
shown in turns of the user, between <tool_response> and </tool_response>.
"""

import json
from collections.abc import Sequence

import msgspec

from lmx_protocol.messages import Message, Tool, ToolCall
from lmx_worker.text.conversation import arguments_of
from lmx_worker.text.tool_book import schema_of

_HOW = (
    'To call one, write:\n<tool_call>\n{"name": "NAME", "arguments": {…}}\n</tool_call>\n'
    "Its result comes in <tool_response>. Otherwise answer in words."
)
_SYSTEM_ROLES = ("system", "developer")


def with_tool_prompt(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The conversation for a template that knows neither tools (listed, if there are any) nor calls nor results."""
    turns: list[Message] = []
    for message in messages:
        turn = _in_words(message)
        is_result = message.role == "tool"
        if is_result and turns and turns[-1].role == "user" and turns[-1].tool_call_id is not None:
            turns[-1] = msgspec.structs.replace(turns[-1], content=f"{turns[-1].content}\n{turn.content}")
        else:
            turns.append(turn)
    turns = [msgspec.structs.replace(turn, tool_call_id=None) for turn in turns]
    if not tools:
        return turns
    prompt = tool_prompt(tools)
    if turns and turns[0].role in _SYSTEM_ROLES:
        return [msgspec.structs.replace(turns[0], content=f"{turns[0].content}\n\n{prompt}".lstrip()), *turns[1:]]
    return [Message(role="system", content=prompt), *turns]


def without_system_turn(messages: Sequence[Message]) -> list[Message]:
    """The same for a template that takes no system turn: its words stand at the beginning of the user's first turn."""
    if len(messages) < 2 or messages[0].role not in _SYSTEM_ROLES or messages[1].role != "user":
        return list(messages)
    system, user, *rest = messages
    return [msgspec.structs.replace(user, content=f"{system.content}\n\n{user.content}"), *rest]


def tool_prompt(tools: Sequence[Tool]) -> str:
    """What the model is told."""
    return "\n".join(("You can call these tools:", *map(_description, tools), "", _HOW))


def _description(tool: Tool) -> str:
    told = {"name": tool.name, "description": tool.description, "parameters": schema_of(tool)}
    return json.dumps({key: value for key, value in told.items() if value}, ensure_ascii=False)


def _in_words(message: Message) -> Message:
    if message.role == "tool":
        content = f"<tool_response>\n{message.content}\n</tool_response>"
        return msgspec.structs.replace(message, role="user", name=None, content=content)
    if not message.tool_calls:
        return message
    said = [message.content] if message.content else []
    content = "\n".join([*said, *map(_call, message.tool_calls)])
    return msgspec.structs.replace(message, content=content, tool_calls=())


def _call(call: ToolCall) -> str:
    content = json.dumps({"name": call.name, "arguments": arguments_of(call)}, ensure_ascii=False)
    return f"<tool_call>\n{content}\n</tool_call>"
