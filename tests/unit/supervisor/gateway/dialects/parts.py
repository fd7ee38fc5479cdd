"""Random answers as workers tell them: parts in a legal order, cut anywhere."""

from hypothesis import strategies as st

from lmx_protocol.messages import Alternative, Finished, Reasoning, Text, TokenLogprob, ToolCallPart, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.gateway.dialects.base import AnswerPart

_logprob = st.floats(min_value=-50, max_value=0)
_tokens = st.builds(
    TokenLogprob,
    token=st.binary(min_size=1, max_size=6) | st.text(min_size=1, max_size=4).map(str.encode),
    logprob=_logprob,
    alternatives=st.lists(st.builds(Alternative, token=st.binary(min_size=1, max_size=4), logprob=_logprob), max_size=3).map(
        tuple
    ),
)


def _texts() -> st.SearchStrategy[list[AnswerPart]]:
    parts = st.builds(Text, request_id=st.just("r"), text=st.text(), logprobs=st.lists(_tokens, max_size=3).map(tuple))
    return st.lists(parts, max_size=6)


def _reasoning() -> st.SearchStrategy[list[AnswerPart]]:
    return st.lists(st.builds(Reasoning, request_id=st.just("r"), text=st.text()), max_size=4)


@st.composite
def _calls(draw: st.DrawFn) -> list[AnswerPart]:
    parts: list[AnswerPart] = []
    for index in range(draw(st.integers(0, 3))):
        first, *others = draw(st.lists(st.text(), min_size=1, max_size=4))
        parts.append(ToolCallPart(request_id="r", index=index, call_id=f"call_{index}", name=f"f{index}", arguments=first))
        parts += [ToolCallPart(request_id="r", index=index, arguments=piece) for piece in others]
    return parts


def chat_answers() -> st.SearchStrategy[list[AnswerPart]]:
    """Thinking, then text, then calls."""
    return st.tuples(_reasoning(), _texts(), _calls()).map(lambda kinds: [part for kind in kinds for part in kind])


def text_answers() -> st.SearchStrategy[list[AnswerPart]]:
    """Text only."""
    return _texts()


def ends() -> st.SearchStrategy[Finished]:
    """The end of an answer."""
    count = st.integers(0, 1000)
    usage = st.builds(Usage, prompt_tokens=count, completion_tokens=count, cached_tokens=count, reasoning_tokens=count)
    return st.builds(Finished, request_id=st.just("r"), reason=st.sampled_from(FinishReason), usage=usage)


@st.composite
def interleaved(draw: st.DrawFn, answers: list[list[AnswerPart]]) -> list[tuple[int, AnswerPart]]:
    """The parts of several choices in one order in which they could have come."""
    left = {choice: list(parts) for choice, parts in enumerate(answers) if parts}
    order = []
    while left:
        choice = draw(st.sampled_from(sorted(left)))
        order.append((choice, left[choice].pop(0)))
        if not left[choice]:
            del left[choice]
    return order
