"""From the text a model says to what it means by it: reasoning, answer, calls of tools. However the text is cut, the result is
the same."""

from dataclasses import dataclass

from lmx_protocol.messages import GenerateRequest, Tool
from lmx_protocol.states import ToolMode
from lmx_worker.text import harmony
from lmx_worker.text.answer_format import AnswerFormat
from lmx_worker.text.pieces import Piece, Said, Steps
from lmx_worker.text.reasoning import read_reasoning
from lmx_worker.text.source import MalformedError, Source
from lmx_worker.text.tool_book import ToolBook


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answer to one request is to be read."""

    format: AnswerFormat | None = None
    """None: all of it is text."""
    tools: ToolBook | None = None
    """None: calls are text."""
    one_call: bool = False
    """The answer ends before a second call."""
    begins_in_reasoning: bool = False


PLAIN = Reading()
"""All of the answer is text."""


def offered_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """The tools that the model is shown; none where the client wants no calls."""
    return () if request.tool_choice.mode is ToolMode.NONE else request.tools


def reading_of(request: GenerateRequest, format_: AnswerFormat | None, *, begins_in_reasoning: bool = False) -> Reading:
    """How the answer to a request is read, of a model that writes in this format."""
    tools = offered_tools(request)
    return Reading(
        format=format_,
        tools=ToolBook(tools) if tools else None,
        one_call=not request.tool_choice.parallel,
        begins_in_reasoning=begins_in_reasoning,
    )


class AnswerReader:
    """Reads one answer."""

    def __init__(self, reading: Reading) -> None:
        self._source = Source()
        self._steps = _read(self._source, reading)

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is reasoning, as far as can be told."""
        return self._source.is_thinking

    def push(self, text: str) -> list[Piece]:
        """Take the next text; the pieces that became final by it."""
        self._source.feed(text)
        return self._advance()

    def finish(self) -> list[Piece]:
        """No text follows; the last pieces."""
        self._source.end()
        return self._advance()

    def _advance(self) -> list[Piece]:
        pieces = []
        for piece in self._steps:
            if piece is None:
                break
            pieces.append(piece)
        return pieces


def _read(source: Source, reading: Reading) -> Steps[None]:
    format_ = reading.format
    if format_ is None:
        yield from source.flow(Said, ())
        return
    if format_.is_harmony:
        yield from harmony.read_messages(source, has_tools=reading.tools is not None)
        return
    if format_.reasoning is not None:
        try:
            yield from read_reasoning(source, format_.reasoning, is_open=reading.begins_in_reasoning)
        except MalformedError:
            source.rewind()
    if reading.tools is None:
        yield from source.flow(Said, ())
        return
    yield from _read_text_and_calls(source, format_, reading.tools)


def _read_text_and_calls(source: Source, format_: AnswerFormat, tools: ToolBook) -> Steps[None]:
    calls = format_.calls
    if calls.bare_opener and (yield from _next_visible(source)) == calls.bare_opener:
        yield from _try_calls(source, format_, "", tools)
    source.rewind()
    while (opener := (yield from source.flow(Said, calls.openers))) is not None:
        yield from _try_calls(source, format_, opener, tools)


def _try_calls(source: Source, format_: AnswerFormat, opener: str, tools: ToolBook) -> Steps[None]:
    """Calls after an opener that was read but not settled; without it, calls that begin where the source is settled."""
    settled_before = source.settlements
    try:
        yield from format_.calls.read(source, opener, tools)
    except MalformedError:
        source.rewind()
        if source.settlements == settled_before:
            # No call at all: the opener is text like any other, and what follows is looked at anew.
            yield from _pass_opener(source, opener or format_.calls.bare_opener)
        return
    if (yield from _next_visible(source)):
        source.rewind()
    else:
        source.settle()


def _pass_opener(source: Source, opener: str) -> Steps[None]:
    yield Said((yield from source.until(opener)) + opener)
    source.settle()


def _next_visible(source: Source) -> Steps[str]:
    """The next character that is no white space, which is read; empty at the end of the text."""
    try:
        yield from source.skip_space()
    except MalformedError:  # more of it than anyone writes before a call
        return ""
    return (yield from source.peek())
