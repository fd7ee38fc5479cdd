"""Calls written as a name followed by pairs of marked keys and values.

<tool_call>f
<arg_key>a</arg_key>
<arg_value>1</arg_value>
</tool_call>                         GLM 4.5 to 4.7; LongCat with marks of its own
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lmx_worker.text.calls.json_calls import json_call, skip_closer
from lmx_worker.text.calls.values import ArgumentsWriter, text_value
from lmx_worker.text.pieces import CallBegun, Steps
from lmx_worker.text.source import NAME_CHARACTERS_MAX, MalformedError, Source
from lmx_worker.text.tool_book import ToolBook


@dataclass(frozen=True, slots=True)
class PairCalls:
    """See `CallStyle`."""

    opener: str
    closer: str
    key: str
    key_end: str
    value: str
    value_end: str

    @property
    def openers(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener,)

    @property
    def bare_opener(self) -> str:
        """See `CallStyle`."""
        return ""

    @property
    def marks(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener, self.closer, self.key, self.key_end, self.value, self.value_end)

    def read(self, source: Source, opener: str, tools: ToolBook) -> Steps[None]:
        """See `CallStyle`."""
        yield from source.skip_space()
        if (yield from source.peek()) == "{":
            yield from json_call(source)  # what these models were taught before
            yield from skip_closer(source, self.closer)
            return
        name = yield from source.name()
        yield from source.skip_space()
        mark = yield from source.accept_any((self.key, self.closer))
        if mark is None:
            raise MalformedError
        yield CallBegun(name)
        arguments = ArgumentsWriter()
        if mark == self.key:
            yield from self._read_pairs(source, name, arguments, tools)
        else:
            yield arguments.end()
            source.settle()

    def _read_pairs(self, source: Source, name: str, arguments: ArgumentsWriter, tools: ToolBook) -> Steps[None]:
        source.settle()
        while True:
            try:
                key = (yield from source.until(self.key_end, characters_max=NAME_CHARACTERS_MAX)).strip()
                yield from source.skip_space()
                yield from source.expect(self.value)
            except MalformedError:
                yield arguments.end()
                raise
            types = tools.types_of(name, key)
            yield from text_value(source, self.value_end, types, has_line_breaks=False, prefix=arguments.begin(key))
            yield from source.skip_space()
            if not (yield from source.accept(self.key)):
                break
        yield arguments.end()
        source.rewind()
        yield from skip_closer(source, self.closer)
