"""The answers of gpt-oss, which are a sequence of messages with a head each ("harmony").

    <|channel|>analysis<|message|>…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>
    <|channel|>final<|message|>…<|return|>

The prompt ends with `<|start|>assistant`. A message to a function is a call; of the others, those of the channel `analysis` are
reasoning and the rest is text.
"""

import re

from lmx_worker.text.json_reading import call_arguments
from lmx_worker.text.pieces import Said, Steps, Thought
from lmx_worker.text.source import NAME_CHARACTERS_MAX, MalformedError, Source

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
MARKS = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN)

_ENDS = (END, CALL, RETURN)
_ROLE = "assistant"
_FUNCTION = re.compile(r"\bto=functions\.([^\s<]+)")
_REASONING_CHANNEL = "analysis"


def read_messages(source: Source, *, has_tools: bool) -> Steps[None]:
    """A whole answer."""
    while (yield from source.peek()):
        try:
            yield from _read_message(source, has_tools=has_tools)
        except MalformedError:
            source.rewind()
            yield from _read_unmarked(source)


def _read_message(source: Source, *, has_tools: bool) -> Steps[None]:
    yield from source.skip_space()
    if (yield from source.accept(START)):
        yield from source.accept(_ROLE)
    first = yield from source.accept_any((CHANNEL, MESSAGE, " to=", "to="))
    if first is None:
        raise MalformedError
    head = first if first == MESSAGE else first + (yield from source.until(MESSAGE, characters_max=2 * NAME_CHARACTERS_MAX))
    if any(mark in head for mark in _ENDS):
        raise MalformedError
    function = _FUNCTION.search(head)
    if function is not None and has_tools:
        yield from source.skip_space()
        yield from call_arguments(source, function[1])
        yield from source.skip_space()
        if (yield from source.accept_any(_ENDS)):
            source.settle()
        return
    source.settle()
    is_reasoning = head.rpartition(CHANNEL)[2].split(maxsplit=1)[:1] == [_REASONING_CHANNEL]
    source.is_thinking = is_reasoning
    mark = yield from source.flow(Thought if is_reasoning else Said, (*_ENDS, START))
    source.is_thinking = False
    if mark == START:
        source.rewind()
    elif mark is not None:
        source.settle()


def _read_unmarked(source: Source) -> Steps[None]:
    """What is no message is text, up to where one may begin."""
    if not (yield from source.peek()):
        return
    yield Said((yield from source.character()))
    source.settle()
    if (yield from source.flow(Said, (START, CHANNEL))) is not None:
        source.rewind()
