"""Calls written as JSON objects with a name and arguments, between marks, in a list, or bare.

<tool_call>{"name": "f", "arguments": {…}}</tool_call>      Hermes, Qwen 2.5 and 3, and LMX's own prompt
[TOOL_CALLS][{"name": "f", "arguments": {…}}, …]            Mistral until v7
{"name": "f", "parameters": {…}}; {…}                       Llama 3.1 to 3.3, after <|python_tag|> or bare
<|tool_call|>[{…}]<|/tool_call|>                            Granite, Phi 4
<|START_ACTION|>[{"tool_name": "f", "parameters": {…}}]<|END_ACTION|>    Command R7B and A
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmx_worker.text.json_reading import call_arguments, json_string, json_value, object_text, whole_call
from lmx_worker.text.pieces import Steps
from lmx_worker.text.source import MalformedError, Source
from lmx_worker.text.tool_book import ToolBook

_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_SIDE_KEYS = ("id", "type", "tool_call_id")


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """See `CallStyle`."""

    opener: str
    closer: str = ""
    may_be_bare: bool = False
    name_key: str = "name"
    arguments_key: str = "arguments"
    is_list: bool = False
    """The calls stand in a list; what is read may do either."""

    @property
    def openers(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener,)

    @property
    def bare_opener(self) -> str:
        """See `CallStyle`."""
        return "{" if self.may_be_bare else ""

    @property
    def marks(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener, self.closer)

    def read(self, source: Source, opener: str, tools: ToolBook) -> Steps[None]:
        """See `CallStyle`."""
        known = tools if not opener else None
        yield from source.skip_space()
        in_list = yield from source.accept("[")
        yield from json_call(source, known)
        while (yield from _another_follows(source)):
            yield from json_call(source, known)
        if in_list:
            yield from source.skip_space()
            yield from source.expect("]")
            source.settle()
        yield from skip_closer(source, self.closer)


def json_call(source: Source, known: ToolBook | None = None) -> Steps[None]:
    """One object; of a tool in `known`, if that is given."""
    name, arguments, has_begun = "", "", False
    yield from source.skip_space()
    yield from source.expect("{")
    while True:
        yield from source.skip_space()
        key = yield from json_string(source)
        yield from source.skip_space()
        yield from source.expect(":")
        yield from source.skip_space()
        if key in _NAME_KEYS and not name:
            name = yield from json_string(source)
            if not name or (known is not None and name not in known):
                raise MalformedError
        elif key in _ARGUMENT_KEYS and not has_begun:
            has_begun = bool(name)
            if name:
                yield from call_arguments(source, name)
            else:
                arguments = object_text((yield from json_value(source)))
        elif key in _SIDE_KEYS:
            yield from json_value(source)
        else:
            raise MalformedError
        yield from source.skip_space()
        if not (yield from source.accept(",")):
            break
    yield from source.expect("}")
    if not name:
        raise MalformedError
    if not has_begun:
        yield from whole_call(source, name, arguments or "{}")
    source.settle()


def skip_closer(source: Source, closer: str) -> Steps[None]:
    """Read what closes calls, if it comes next; models forget it."""
    if not closer:
        return
    yield from source.skip_space()
    if (yield from source.accept(closer)):
        source.settle()
    else:
        source.rewind()


def _another_follows(source: Source) -> Steps[bool]:
    """Whether another object comes after the one that was just settled; if so, what is between them is read."""
    yield from source.skip_space()
    if (yield from source.accept_any((",", ";"))):
        yield from source.skip_space()
    if (yield from source.peek()) == "{":
        return True
    source.rewind()
    return False
