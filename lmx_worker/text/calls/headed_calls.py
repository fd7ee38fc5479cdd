"""Calls written as a head with the tool's name, a mark, and the arguments as JSON.

[TOOL_CALLS]f[ARGS]{…}                                                              Mistral since v11
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>          DeepSeek V3.1
…<｜tool▁call▁begin｜>function<｜tool▁sep｜>f⏎```json⏎{…}⏎```<｜tool▁call▁end｜>…                          DeepSeek V3, R1
<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>…  Kimi K2
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmx_worker.text.calls.json_calls import JsonCalls, skip_closer
from lmx_worker.text.json_reading import call_arguments
from lmx_worker.text.pieces import Steps
from lmx_worker.text.source import NAME_CHARACTERS_MAX, MalformedError, Source
from lmx_worker.text.tool_book import ToolBook

_NUMBERED_NAME = re.compile(r"(?:functions\.)?(.+):\d+")
_KIND_BEFORE_NAME = "function"
_FENCE, _FENCE_END = "```json", "```"
_CALL_ID = "[CALL_ID]"


@dataclass(frozen=True, slots=True)
class HeadedCalls:
    """See `CallStyle`. `call` is empty where calls follow the opener without a mark of their own."""

    opener: str
    closer: str
    call: str
    head_end: str
    call_end: str

    @property
    def openers(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener, self.call) if self.call else (self.opener,)

    @property
    def bare_opener(self) -> str:
        """See `CallStyle`."""
        return ""

    @property
    def marks(self) -> Sequence[str]:
        """See `CallStyle`."""
        return (self.opener, self.closer, self.call, self.head_end, self.call_end, _CALL_ID)

    def read(self, source: Source, opener: str, tools: ToolBook) -> Steps[None]:
        """See `CallStyle`."""
        yield from source.skip_space()
        if not self.call and (yield from source.peek()) in ("[", "{"):
            yield from JsonCalls(opener).read(source, opener, tools)
            return
        if opener != self.call:
            yield from source.expect(self.call)
        yield from self._read_call(source)
        while (yield from self._another_follows(source)):
            yield from self._read_call(source)
        yield from skip_closer(source, self.closer)

    def _read_call(self, source: Source) -> Steps[None]:
        """A call, after its mark."""
        head = (yield from source.until(self.head_end, characters_max=2 * NAME_CHARACTERS_MAX)).partition(_CALL_ID)[0].strip()
        is_fenced = head == _KIND_BEFORE_NAME
        if is_fenced:
            head = (yield from source.until("\n", characters_max=NAME_CHARACTERS_MAX)).strip()
            yield from source.expect(_FENCE)
        numbered = _NUMBERED_NAME.fullmatch(head)
        name = numbered[1] if numbered else head
        if not name or len(name) > NAME_CHARACTERS_MAX or any(character in name for character in "<[ \n"):
            raise MalformedError
        yield from source.skip_space()
        yield from call_arguments(source, name, call_id=head if numbered else "")
        if is_fenced:
            yield from skip_closer(source, _FENCE_END)
        yield from skip_closer(source, self.call_end)

    def _another_follows(self, source: Source) -> Steps[bool]:
        """Whether another call comes next; if so, its mark is read."""
        if not self.call:
            return False
        yield from source.skip_space()
        if (yield from source.accept(self.call)):
            return True
        source.rewind()
        return False
