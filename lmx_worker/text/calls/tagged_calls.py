"""Calls written as tags, one around the call and one around each argument.

<tool_call><function=f><parameter=a>1</parameter></function></tool_call>                         Qwen 3 Coder
<seed:tool_call><function=f><parameter=a>1</parameter></function></seed:tool_call>               Seed OSS
<minimax:tool_call><invoke name="f"><parameter name="a">1</parameter></invoke></minimax:tool_call>   MiniMax M2
<function name="f"><param name="a">1</param></function>                                          MiniCPM 5
<｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="true">…       DeepSeek V3.2
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmx_worker.text.calls.json_calls import json_call, skip_closer
from lmx_worker.text.calls.values import ArgumentsWriter, text_value
from lmx_worker.text.pieces import CallBegun, Steps
from lmx_worker.text.source import NAME_CHARACTERS_MAX, MalformedError, Source
from lmx_worker.text.tool_book import ToolBook

_NAME_ATTRIBUTE = re.compile(r"""\bname\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_IS_TEXT, _IS_NO_TEXT = 'string="true"', 'string="false"'
_NO_TEXT = frozenset(("array", "boolean", "integer", "null", "number", "object"))


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """See `CallStyle`. `call` and `argument` are the beginnings of tags that end with `>`."""

    section: str
    section_end: str
    call: str
    call_end: str
    argument: str
    argument_end: str
    has_line_breaks: bool = False
    """Values stand on lines of their own."""

    @property
    def openers(self) -> Sequence[str]:
        """See `CallStyle`."""
        return tuple(opener for opener in (self.section, self.call) if opener)

    @property
    def bare_opener(self) -> str:
        """See `CallStyle`."""
        return ""

    @property
    def marks(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.section, self.section_end, self.call, self.call_end, self.argument, self.argument_end)

    def read(self, source: Source, opener: str, tools: ToolBook) -> Steps[None]:
        """See `CallStyle`."""
        if opener == self.section:
            yield from source.skip_space()
            if (yield from source.peek()) == "{":
                yield from json_call(source)  # what these models were taught before
                yield from skip_closer(source, self.section_end)
                return
            yield from source.expect(self.call)
        yield from self._read_call(source, tools)
        while opener == self.section:
            yield from source.skip_space()
            if not (yield from source.accept(self.call)):
                source.rewind()
                break
            yield from self._read_call(source, tools)
        yield from skip_closer(source, self.section_end)

    def _read_call(self, source: Source, tools: ToolBook) -> Steps[None]:
        """A call, after the beginning of its tag."""
        name, _ = yield from _tag_rest(source)
        yield CallBegun(name)
        source.settle()
        arguments = ArgumentsWriter()
        while True:
            yield from source.skip_space()
            if not (yield from source.accept(self.argument)):
                break
            try:
                key, tag = yield from _tag_rest(source)
            except MalformedError:
                yield arguments.end()
                raise
            types = tools.types_of(name, key)
            if _IS_TEXT in tag:
                types = frozenset(("string",))
            elif _IS_NO_TEXT in tag:
                types = _NO_TEXT
            yield from text_value(
                source, self.argument_end, types, has_line_breaks=self.has_line_breaks, prefix=arguments.begin(key)
            )
        yield arguments.end()
        source.rewind()
        yield from skip_closer(source, self.call_end)


def _tag_rest(source: Source) -> Steps[tuple[str, str]]:
    """The name in a tag whose beginning has been read, and everything after that beginning."""
    tag = yield from source.until(">", characters_max=2 * NAME_CHARACTERS_MAX)
    match = _NAME_ATTRIBUTE.search(tag)
    name = next(group for group in match.groups() if group is not None) if match else tag.strip().strip("\"'")
    if not name or len(name) > NAME_CHARACTERS_MAX or "<" in name or "\n" in name:
        raise MalformedError
    return name, tag
