"""Messages in the shape that chat templates are written for, which is OpenAI's with objects for arguments.

Templates disagree on whether a call's arguments are an object or its JSON text. They get an object that, put into text, is its
JSON: so either way works.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from lmx_protocol.messages import Message, Tool, ToolCall
from lmx_worker.text.tool_book import schema_of

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_SHORT_ID_CHARACTERS = 9
_WANTS_NO_CONTENT = re.compile(r"""content(?:['"]\])? is (?:none|None)""")


class Arguments(dict[str, Any]):
    """A call's arguments: an object to templates that look into it, its JSON text to those that print it."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


class ConversationShape:
    """What one template expects of messages."""

    def __init__(self, template: str) -> None:
        self._needs_short_ids = "length != 9" in template
        # Where a turn is only calls, some templates test for no content and others print what they are given.
        self._content_beside_calls = None if _WANTS_NO_CONTENT.search(template) else ""
        self._refuses_thoughts_beside_content = "Cannot pass both content and thinking" in template

    def turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as the template takes them."""
        names = {call.call_id: call.name for message in messages for call in message.tool_calls}
        return [self._turn(message, names) for message in messages]

    def _turn(self, message: Message, names: dict[str, str]) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        name = message.name or names.get(message.tool_call_id or "")
        if name is not None:
            turn["name"] = name
        if message.tool_call_id is not None:
            turn["tool_call_id"] = self._id(message.tool_call_id)
        if message.tool_calls:
            turn["tool_calls"] = [self._call(call) for call in message.tool_calls]
            turn["content"] = message.content or self._content_beside_calls
        if message.reasoning and not (self._refuses_thoughts_beside_content and message.tool_calls and message.content):
            turn["reasoning_content"] = turn["thinking"] = message.reasoning
        return turn

    def _call(self, call: ToolCall) -> dict[str, Any]:
        function = {"name": call.name, "arguments": arguments_of(call)}
        return {"id": self._id(call.call_id), "type": "function", "function": function}

    def _id(self, call_id: str) -> str:
        if not self._needs_short_ids or _SHORT_ID.fullmatch(call_id):
            return call_id
        return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:_SHORT_ID_CHARACTERS]


def arguments_of(call: ToolCall) -> Arguments | str:
    """A call's arguments; as they are written where they are no JSON object."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments
    return Arguments(arguments) if isinstance(arguments, dict) else call.arguments


def tool_dicts(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as templates take them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": schema_of(tool)},
        }
        for tool in tools
    ]
