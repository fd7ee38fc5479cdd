"""How models mark what they think before they answer."""

from collections.abc import Callable
from dataclasses import dataclass

from lmx_worker.text.pieces import Steps, Thought
from lmx_worker.text.source import Source


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What stands before and after the reasoning."""

    start: str
    end: str


THINK_MARKS = ReasoningMarks("<think>", "</think>")
_KNOWN = (
    THINK_MARKS,
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<longcat_think>", "</longcat_think>"),
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarks("<|think:start|>", "<|think:end|>"),
    ReasoningMarks("<|channel>thought", "<channel|>"),
)


def reasoning_marks(template: str, has_token: Callable[[str], bool]) -> ReasoningMarks | None:
    """The marks of a model: those its template speaks of, or else those it has tokens for; None when it does not think."""
    for marks in _KNOWN:
        if marks.start in template and marks.end in template:
            return marks
    return next((marks for marks in _KNOWN if has_token(marks.start) and has_token(marks.end)), None)


def read_reasoning(source: Source, marks: ReasoningMarks, *, is_open: bool) -> Steps[None]:
    """The reasoning, if the answer begins with it; `is_open`: the prompt ended with its first mark.

    White space next to the marks belongs to them.
    """
    source.is_thinking = is_open
    yield from source.skip_space()
    if not (yield from source.accept(marks.start)) and not is_open:
        source.rewind()
        return
    source.is_thinking = True
    yield from source.skip_space()
    source.settle()
    if (yield from source.flow(Thought, (marks.end,))) is None:
        return
    source.settle()
    source.is_thinking = False
    yield from source.skip_space()
    source.settle()
