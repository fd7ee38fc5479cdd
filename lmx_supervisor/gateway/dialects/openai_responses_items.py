"""The items of a Responses conversation as the neutral chat turns, and the turns that an answer adds to it. Pure.

What the model thought and the calls it made belong to the assistant's turn around them; items say them one by one.
"""

from collections.abc import Sequence

import msgspec

from lmx_protocol.messages import Message, ToolCall
from lmx_supervisor.gateway.dialects.base import CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_inbound import not_supported, required
from lmx_supervisor.gateway.dialects.openai_responses_schema import ItemIn, PartIn

_READABLE = {"input_text": "text", "output_text": "text", "text": "text", "reasoning_text": "text", "refusal": "refusal"}
"""The types of content parts that can be read, and the field that holds their text."""


def to_messages(items: Sequence[ItemIn]) -> tuple[Message, ...]:
    """The turns that these items tell. Raises `Problem`."""
    turns: list[Message] = []
    thought = ""
    for index, item in enumerate(items):
        param = f"input.{index}"
        match item.type:
            case "reasoning":
                thought += _text(item.content, f"{param}.content")
            case "message":
                turns.append(_message(item, param, thought))
                thought = ""
            case "function_call":
                _add_call(turns, _call(item, param), thought)
                thought = ""
            case "function_call_output":
                turns.append(_result(item, param))
            case other:
                raise not_supported(f"{param}.type", f"items of type {other[:64]!r} are not supported.")
    return tuple(turns)


def answer_turn(answer: CollectedAnswer) -> Message:
    """The turn that an answer adds to its conversation."""
    calls = tuple(ToolCall(call_id=call.call_id, name=call.name, arguments=call.arguments) for call in answer.tool_calls)
    return Message(role="assistant", content=answer.text, reasoning=answer.reasoning, tool_calls=calls)


def _message(item: ItemIn, param: str, thought: str) -> Message:
    if item.role is None:
        raise required(f"{param}.role")
    if item.content is None:
        raise required(f"{param}.content")
    role = "system" if item.role == "developer" else item.role
    reasoning = thought if role == "assistant" else ""
    return Message(role=role, content=_text(item.content, f"{param}.content"), reasoning=reasoning)


def _call(item: ItemIn, param: str) -> ToolCall:
    for field in ("call_id", "name", "arguments"):
        if getattr(item, field) is None:
            raise required(f"{param}.{field}")
    return ToolCall(call_id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")


def _add_call(turns: list[Message], call: ToolCall, thought: str) -> None:
    """A call belongs to the assistant's turn before it, unless the model has thought anew."""
    if turns and turns[-1].role == "assistant" and not thought:
        turns[-1] = msgspec.structs.replace(turns[-1], tool_calls=(*turns[-1].tool_calls, call))
    else:
        turns.append(Message(role="assistant", content="", reasoning=thought, tool_calls=(call,)))


def _result(item: ItemIn, param: str) -> Message:
    if item.call_id is None:
        raise required(f"{param}.call_id")
    if item.output is None:
        raise required(f"{param}.output")
    return Message(role="tool", content=_text(item.output, f"{param}.output"), tool_call_id=item.call_id)


def _text(content: str | list[PartIn] | None, param: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(_part_text(part, f"{param}.{index}") for index, part in enumerate(content))


def _part_text(part: PartIn, param: str) -> str:
    field = _READABLE.get(part.type)
    if field is None:
        raise not_supported(f"{param}.type", f"content parts of type {part.type[:64]!r} are not supported; send text.")
    text: str | None = getattr(part, field)
    if text is None:
        raise required(f"{param}.{field}")
    return text
