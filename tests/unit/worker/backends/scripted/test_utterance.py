"""What a scripted model says: thoughts, then text, then calls, each token with what was asked for."""

from typing import Any

import pytest

from lmx_protocol.messages import Alternative, GenerateRequest, TokenLogprob, Tool, ToolChoice
from lmx_protocol.states import FinishReason, ToolMode
from lmx_worker.backends.scripted.script import Answer, Call
from lmx_worker.backends.scripted.utterance import ScriptedToken, Utterance
from lmx_worker.text.pieces import CallArguments, CallBegun, Thought

CALLS = (Call(name="look", arguments=('{"at":', "1}")), Call(name="wait"))
LOOK = (Tool(name="look"),)


def request(**fields: Any) -> GenerateRequest:
    """A request."""
    return GenerateRequest(request_id="r", model_id="m", prompt="p", **fields)


def test_everything_comes_in_order() -> None:
    """Thoughts, text, calls one after another; the first part of a call carries its id and name."""
    answer = Answer(reasoning=("hm",), pieces=("I ", "look"), tool_calls=CALLS)
    utterance = Utterance(request(tools=LOOK), answer, answer.pieces)

    assert list(utterance.tokens()) == [
        ScriptedToken(pieces=(Thought("hm"),)),
        ScriptedToken("I "),
        ScriptedToken("look"),
        ScriptedToken(pieces=(CallBegun("look", "call_r_0"), CallArguments('{"at":'))),
        ScriptedToken(pieces=(CallArguments("1}"),)),
        ScriptedToken(pieces=(CallBegun("wait", "call_r_1"), CallArguments("{}"))),
    ]
    assert (6, FinishReason.TOOL_CALLS) == (utterance.total_tokens, utterance.finish)


@pytest.mark.parametrize("fields", [{}, {"tools": LOOK, "tool_choice": ToolChoice(mode=ToolMode.NONE)}])
def test_nothing_is_called_that_may_not_be(fields: dict[str, Any]) -> None:
    """Without tools, or told not to call them, it says the rest; and where nothing is left, a token that is no text."""
    with_text = Utterance(request(**fields), Answer(pieces=("x",), tool_calls=CALLS), ("x",))
    without = Utterance(request(**fields), Answer(tool_calls=CALLS), ())

    assert [ScriptedToken("x")] == list(with_text.tokens())
    assert [ScriptedToken()] == list(without.tokens())
    assert {(1, FinishReason.STOP)} == {(each.total_tokens, each.finish) for each in (with_text, without)}


@pytest.mark.parametrize(("asked", "alternatives"), [(0, ()), (2, (("x", -0.5), ("<1>", -1.5)))])
def test_log_probabilities_for_who_asks(asked: int, alternatives: tuple[tuple[str, float], ...]) -> None:
    """Those of the script, and as many alternatives as wanted, the sampled token the likeliest of them."""
    answer = Answer(pieces=("x",), logprob=-0.5)

    (token,) = Utterance(request(logprobs=asked), answer, answer.pieces).tokens()
    (silent,) = Utterance(request(), answer, answer.pieces).tokens()

    others = tuple(Alternative(token=text.encode(), logprob=logprob) for text, logprob in alternatives)
    assert TokenLogprob(token=b"x", logprob=-0.5, alternatives=others) == token.logprob
    assert silent.logprob is None
