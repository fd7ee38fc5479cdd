"""Anthropic's turns and content blocks as neutral messages. What cannot be read is refused with its place, never dropped. Pure.

The one exception is a `redacted_thinking` block: it is encrypted by and for Anthropic's own servers, and LMX never makes one.
"""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Raw
from msgspec.structs import replace

from lmx_protocol.messages import Message, ToolCall
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.anthropic_schema import Block, Turn, citations_decoder
from lmx_supervisor.gateway.dialects.openai_inbound import invalid_value, not_supported, required
from lmx_supervisor.gateway.dialects.volatile_lines import without_volatile_lines

Value = TypeVar("Value")


def to_messages(turns: Sequence[Turn]) -> list[Message]:
    """The conversation. Consecutive turns of one role become one; results of tools stand before what the user says.

    Raises:
        Problem: 400, with the place in the body.
    """
    history = _History()
    for index, turn in enumerate(turns):
        history.add(turn, f"messages.{index}")
    history.check_calls_are_answered()
    return history.messages


def system_text(system: str | list[Block]) -> str:
    """The system prompt. Raises `Problem` (400)."""
    if isinstance(system, str):
        return without_volatile_lines(system)
    texts = (_read(block, f"system.{index}", "text") for index, block in enumerate(system))
    return "\n".join(text for text in map(without_volatile_lines, texts) if text)


def object_text(raw: Raw, param: str) -> str:
    """A JSON object that was kept raw, as text. Raises `Problem` (400)."""
    try:
        text = bytes(raw).decode()
    except UnicodeDecodeError:
        raise invalid_value(param, "a string in it is not UTF-8.") from None
    if text == "null":
        raise required(param)
    if not text.startswith("{"):
        raise invalid_value(param, "expected an object.")
    return text


class _History:
    """The neutral messages of the turns so far, and the tool calls among them that wait for a result."""

    def __init__(self) -> None:
        self._said: list[list[Message]] = []
        """What becomes one message each: joined at the end, because each join copies what was joined before."""
        self._open_calls: dict[str, str] = {}
        """Names of tools by the id of the call."""
        self._calls_place = ""

    @property
    def messages(self) -> list[Message]:
        """The conversation so far."""
        return [_joined(parts) for parts in self._said]

    def add(self, turn: Turn, place: str) -> None:
        """Take in the next turn."""
        blocks = [Block(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content
        places = [f"{place}.content.{index}" for index in range(len(blocks))]
        match turn.role:
            case "user":
                self._add_user(blocks, places)
            case "assistant":
                self._add_assistant(blocks, places, place)
            case "system":
                text = "\n".join(_read(block, param, "text") for block, param in zip(blocks, places, strict=True))
                self._append(Message(role="system", content=without_volatile_lines(text)))

    def check_calls_are_answered(self) -> None:
        """Every call so far has its result. Raises `Problem` (400)."""
        if self._open_calls:
            ids = ", ".join(self._open_calls)
            reason = f"`tool_use` blocks without a `tool_result` block in the next message: {ids}."
            raise invalid_value(self._calls_place, reason)

    def _add_user(self, blocks: list[Block], places: list[str]) -> None:
        texts = []
        for block, param in zip(blocks, places, strict=True):
            if block.type == "tool_result":
                self._said.append([self._tool_result(block, param)])
            else:
                texts.append(_read(block, param, "text", "document", "tool_result"))
        if texts:
            self._append(Message(role="user", content="\n".join(texts)))

    def _tool_result(self, block: Block, param: str) -> Message:
        call_id = _present(block.tool_use_id, f"{param}.tool_use_id")
        name = self._open_calls.pop(call_id, None)
        if name is None:
            reason = f"'{call_id}' is no open `tool_use` block of the message before."
            raise invalid_value(f"{param}.tool_use_id", reason)
        content = _tool_result_text(block, param)
        return Message(role="tool", content=content, name=name, tool_call_id=call_id)

    def _add_assistant(self, blocks: list[Block], places: list[str], place: str) -> None:
        if not self._goes_on("assistant"):
            self.check_calls_are_answered()
        self._calls_place = place
        texts, thoughts, calls = [], [], []
        for block, param in zip(blocks, places, strict=True):
            match block.type:
                case "thinking":
                    thoughts.append(_present(block.thinking, f"{param}.thinking"))
                case "redacted_thinking":
                    continue
                case "tool_use":
                    calls.append(self._tool_use(block, param))
                case _:
                    texts.append(_read(block, param, "text", "thinking", "tool_use"))
        said = Message(role="assistant", content="\n".join(texts), reasoning="\n".join(thoughts), tool_calls=tuple(calls))
        if said != _NOTHING_SAID:
            self._append(said)

    def _tool_use(self, block: Block, param: str) -> ToolCall:
        call_id = _present(block.id, f"{param}.id")
        name = _present(block.name, f"{param}.name")
        if call_id in self._open_calls:
            raise invalid_value(f"{param}.id", f"'{call_id}' is the id of another `tool_use` block; ids must be unique.")
        self._open_calls[call_id] = name
        return ToolCall(call_id=call_id, name=name, arguments=object_text(block.input, f"{param}.input"))

    def _append(self, message: Message) -> None:
        """Add a turn; it becomes part of the one before, when that is of the same role."""
        if self._goes_on(message.role):
            self._said[-1].append(message)
        else:
            self._said.append([message])

    def _goes_on(self, role: str) -> bool:
        """Whether the last turn was of this role."""
        return bool(self._said) and self._said[-1][0].role == role


_NOTHING_SAID = Message(role="assistant", content="")


def _joined(parts: Sequence[Message]) -> Message:
    """Turns of one role as one message."""
    first, *others = parts
    if not others:
        return first
    return replace(
        first,
        content="\n".join(part.content for part in parts if part.content),
        reasoning="\n".join(part.reasoning for part in parts if part.reasoning),
        tool_calls=tuple(call for part in parts for call in part.tool_calls),
    )


def _tool_result_text(block: Block, param: str) -> str:
    """What the model is told: the content, marked where the tool failed, because chat templates have no place for that."""
    text = _texts(block.content or "", f"{param}.content", "text", "document")
    return f"Error: {text}" if block.is_error else text


def _read(block: Block, param: str, *accepted: str) -> str:
    """The text of a text block or a text document; `accepted` are the types that may stand here, for the message."""
    if block.type == "text" and "text" in accepted:
        return _present(block.text, f"{param}.text")
    if block.type == "document" and "document" in accepted:
        return _document_text(block, param)
    kinds = ", ".join(f"'{kind}'" for kind in accepted)
    reason = f"content blocks of type '{block.type[:64]}' are not supported here; supported are {kinds}."
    raise not_supported(f"{param}.type", reason)


def _document_text(block: Block, param: str) -> str:
    source = block.source
    if source is None:
        raise required(f"{param}.source")
    citations = decode_field(f"{param}.citations", block.citations, citations_decoder)
    if citations is not None and citations.enabled:
        reason = "citations are not supported; leave them out."
        raise not_supported(f"{param}.citations", reason)
    match source.type:
        case "text":
            text = _present(source.data, f"{param}.source.data")
        case "content":
            if source.content is None:
                raise required(f"{param}.source.content")
            text = _texts(source.content, f"{param}.source.content", "text")
        case other:
            reason = f"documents of type '{other[:64]}' are not supported; supported are 'text' and 'content'."
            raise not_supported(f"{param}.source.type", reason)
    return "\n".join(part for part in (block.title, block.context, text) if part)


def _texts(content: str | list[Block], param: str, *accepted: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_read(block, f"{param}.{index}", *accepted) for index, block in enumerate(content))


def _present(value: Value | None, param: str) -> Value:
    if value is None:
        raise required(param)
    return value
