"""A legacy completion body as neutral requests: prompts in every form, candidates, and what is refused with which `param`."""

import json
from typing import Any

import msgspec
import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import OutputForm
from lmx_protocol.states import OutputKind
from lmx_supervisor.gateway.body import decode_json
from lmx_supervisor.gateway.dialects.openai_completions_request import Plan, to_plan
from lmx_supervisor.gateway.dialects.openai_completions_schema import completion_decoder
from lmx_supervisor.gateway.model_choice import ChosenModel
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from tests.gateway.service import FACTS


def plan(**fields: Any) -> Plan:
    """What a body comes to, for a model of 100 tokens and 4096 tokens of context."""
    body = json.dumps({"model": "m", "prompt": "p", **fields}).encode()
    return to_plan(decode_json(body, completion_decoder), "id", ChosenModel(model_id="m", facts=FACTS))


@pytest.mark.parametrize(
    ("prompt", "texts", "tokens"),
    [
        ("Once", ["Once"], [()]),
        (" \n", [" \n"], [()]),
        (["a", "b"], ["a", "b"], [(), ()]),
        ([1, 99], [None], [(1, 99)]),
        ([[1], [2, 3]], [None, None], [(1,), (2, 3)]),
    ],
)
def test_every_form_of_a_prompt(prompt: Any, texts: list[str | None], tokens: list[tuple[int, ...]]) -> None:
    """A text, texts, tokens, lists of tokens: one generation for each, untemplated."""
    requests = plan(prompt=prompt).requests

    assert texts == [request.prompt for request in requests]
    assert tokens == [request.prompt_tokens for request in requests]
    assert all(not request.messages for request in requests)


def test_prompts_and_candidates_are_flattened_in_order() -> None:
    """Prompt by prompt, each candidate with an id of its own; seeds as if each prompt had been sent alone."""
    made = plan(prompt=["a", "b"], n=2, seed=7, echo=True)

    assert [
        ("id", "a", 7),
        ("id-1", "a", 8),
        ("id-2", "b", 7),
        ("id-3", "b", 8),
    ] == [(request.request_id, request.prompt, request.sampling.seed) for request in made.requests]
    assert (2, 2, ["a", "b"]) == (made.candidates, made.shown, made.echoes)


def test_the_best_are_chosen_by_log_probabilities() -> None:
    """`best_of` makes that many candidates and asks for their log-probabilities, wanted by the client or not."""
    made = plan(best_of=5, n=2)

    assert (5, 2, [0] * 5) == (made.candidates, made.shown, [request.logprobs for request in made.requests])
    assert [3] * 5 == [request.logprobs for request in plan(best_of=5, n=2, logprobs=3).requests]
    assert [None] * 2 == [request.logprobs for request in plan(best_of=2, n=2).requests]


def test_fields_reach_the_request() -> None:
    """Length, stops, log-probabilities and forms, as in chat."""
    (request,) = plan(max_tokens=5, stop=["x"], logprobs=0, guided_regex="a+", temperature=0).requests

    assert (5, ("x",), 0, 0.0) == (request.max_tokens, request.stop, request.logprobs, request.sampling.temperature)
    assert OutputForm(kind=OutputKind.REGEX, source="a+") == request.output


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, ErrorCode.INVALID_REQUEST, "prompt"),
        ({"prompt": {}}, ErrorCode.INVALID_REQUEST, "prompt"),
        ({"prompt": []}, EdgeCode.INVALID_INPUT, "prompt"),
        ({"prompt": [[1], []]}, EdgeCode.INVALID_INPUT, "prompt.1"),
        ({"prompt": ["a", 1]}, ErrorCode.INVALID_REQUEST, "prompt.1"),
        ({"prompt": [1, [2]]}, ErrorCode.INVALID_REQUEST, "prompt.1"),
        ({"prompt": [[1], "a"]}, ErrorCode.INVALID_REQUEST, "prompt.1"),
        ({"prompt": [None]}, ErrorCode.INVALID_REQUEST, "prompt.0"),
        ({"prompt": [[1]] * (limits.COMPLETIONS_MAX + 1)}, ErrorCode.INVALID_VALUE, "prompt"),
        ({"prompt": [1, -2]}, ErrorCode.INVALID_REQUEST, "prompt.1"),
        ({"prompt": [[1], [2, True]]}, ErrorCode.INVALID_REQUEST, "prompt.1.1"),
        ({"prompt": [1, 100]}, ErrorCode.INVALID_VALUE, "prompt"),
        ({"prompt": [[1], [100]]}, ErrorCode.INVALID_VALUE, "prompt.1"),
        ({"prompt": ["a"] * (limits.COMPLETIONS_MAX + 1)}, ErrorCode.INVALID_VALUE, "prompt"),
        ({"prompt": ["a"] * 5, "n": 16}, ErrorCode.INVALID_VALUE, "prompt"),
        ({"prompt": ["x" * limits.PROMPT_ARRAY_BYTES_MAX]}, ErrorCode.INVALID_REQUEST, "prompt"),
        ({"suffix": "end"}, ErrorCode.NOT_SUPPORTED, "suffix"),
        ({"echo": True, "logprobs": 0}, ErrorCode.NOT_SUPPORTED, "echo"),
        ({"echo": True, "prompt": [1]}, ErrorCode.NOT_SUPPORTED, "echo"),
        ({"best_of": 1, "n": 2}, ErrorCode.INVALID_VALUE, "best_of"),
        ({"best_of": 2, "stream": True}, ErrorCode.INVALID_VALUE, "best_of"),
        ({"best_of": 21}, ErrorCode.INVALID_REQUEST, "best_of"),
        ({"logprobs": 21}, ErrorCode.INVALID_REQUEST, "logprobs"),
        ({"logprobs": True}, ErrorCode.INVALID_REQUEST, "logprobs"),
        ({"n": 17}, ErrorCode.INVALID_REQUEST, "n"),
        ({"max_tokens": 0}, ErrorCode.INVALID_REQUEST, "max_tokens"),
        ({"num_ctx": 4097}, ErrorCode.INVALID_VALUE, "num_ctx"),
        ({"grammar": "root ::= x"}, ErrorCode.NOT_SUPPORTED, "grammar"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], code: Any, param: str) -> None:
    """Each with its code and the field's name, down to the index."""
    with pytest.raises(Problem) as refused:
        plan(**fields)

    assert (code, param) == (refused.value.code, refused.value.param)


def test_a_body_without_a_prompt_is_refused() -> None:
    """The one field beside the model that must be there."""
    with pytest.raises(Problem) as refused:
        decode_json(b'{"model": "m"}', completion_decoder)

    assert "prompt" == refused.value.param


def test_tokens_are_not_checked_against_a_vocabulary_that_is_not_known() -> None:
    """A model that is still loading checks for itself."""
    body = decode_json(b'{"model": "m", "prompt": [100]}', completion_decoder)
    unknown = msgspec.structs.replace(FACTS, vocabulary_size=0)

    chosen = [ChosenModel(model_id="m", facts=facts) for facts in (None, unknown)]

    assert [(100,), (100,)] == [to_plan(body, "id", model).requests[0].prompt_tokens for model in chosen]
