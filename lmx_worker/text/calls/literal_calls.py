"""Calls written like code, with values in a notation that is near JSON.

<|tool_call_start|>[f(a="x", b=[1, 2]), g()]<|tool_call_end|>     LFM 2; bare: Llama 3.2 and 4
<start_function_call>call:f{a:<escape>x<escape>,b:[1,2]}<end_function_call>     FunctionGemma
<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>                     Gemma 4
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmx_worker.text.calls.json_calls import skip_closer
from lmx_worker.text.calls.literals import LiteralNotation
from lmx_worker.text.calls.values import ArgumentsWriter
from lmx_worker.text.pieces import CallBegun, Steps
from lmx_worker.text.source import MalformedError, Source
from lmx_worker.text.tool_book import ToolBook

_IDENTIFIER = re.compile(r"[\w.-]*")


@dataclass(frozen=True, slots=True)
class LiteralCalls:
    """See `CallStyle`. A call is `before`, its name, and its arguments between brackets, each with its key and `equals`."""

    opener: str
    closer: str
    notation: LiteralNotation
    before: str = ""
    brackets: str = "()"
    equals: str = "="
    in_list: bool = False
    may_be_bare: bool = False

    @property
    def openers(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener,) if self.opener else ()

    @property
    def bare_opener(self) -> str:
        """See `CallStyle`."""
        return "[" if self.may_be_bare else ""

    @property
    def marks(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener, self.closer, *self.notation.quotes)

    def read(self, source: Source, opener: str, tools: ToolBook) -> Steps[None]:
        """See `CallStyle`."""
        known = tools if not opener else None
        yield from source.skip_space()
        in_list = self.in_list and (yield from source.accept("["))
        yield from source.skip_space()
        yield from self._read_call(source, known)
        while in_list:
            yield from source.skip_space()
            if not (yield from source.accept(",")):
                yield from source.expect("]")
                source.settle()
                break
            yield from source.skip_space()
            yield from self._read_call(source, known)
        yield from skip_closer(source, self.closer)

    def _read_call(self, source: Source, known: ToolBook | None) -> Steps[None]:
        yield from source.expect(self.before)
        name = yield from source.matching(_IDENTIFIER)
        yield from source.expect(self.brackets[0])
        if not name or (known is not None and name not in known):
            raise MalformedError
        yield CallBegun(name)
        source.settle()
        arguments = ArgumentsWriter()
        is_whole = True
        try:
            yield from source.skip_space()
            while not (yield from source.accept(self.brackets[1])):
                key = yield from self.notation.key(source)
                yield from source.skip_space()
                yield from source.expect(self.equals)
                yield arguments.begin(key)
                source.settle()
                is_whole = False
                yield from self.notation.value(source)
                is_whole = True
                yield from source.skip_space()
                if not (yield from source.accept(",")):
                    yield from source.expect(self.brackets[1])
                    break
                yield from source.skip_space()
        except MalformedError:
            if is_whole:
                yield arguments.end()
            raise
        yield arguments.end()
        source.settle()
