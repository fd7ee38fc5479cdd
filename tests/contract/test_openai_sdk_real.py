"""The official `openai` SDK, validating strictly, against real models on both backends."""

import json
import math
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai.types.chat import (
    ChatCompletionMessageParam,
    ChatCompletionToolChoiceOptionParam,
    ChatCompletionToolParam,
)
from pydantic import BaseModel

from tests.contract.conftest import DEMO, TINY
from tests.support.live import LiveServer
from tests.support.mlx_models import LONG_TEXT

pytestmark = pytest.mark.real

BOTH = pytest.mark.parametrize("model", [DEMO, TINY])
QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]


class Verdict(BaseModel):
    """A form with everything bounded, so that a model without any sense fills it in a few tokens too."""

    colour: Literal["red", "green"]
    sure: bool
    grade: Literal[1, 2, 3]


JUDGE: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "judge",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"sure": {"type": "boolean"}},
            "required": ["sure"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(real_service: LiveServer) -> Iterator[openai.OpenAI]:
    """A strict client that does not try again."""
    with openai.OpenAI(
        base_url=f"{real_service.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


@BOTH
def test_a_parsed_answer_is_of_its_type(client: openai.OpenAI, model: str) -> None:
    """`parse` gives the form, from any model and however hot it samples."""
    completion = client.chat.completions.parse(
        model=model, messages=QUESTION, response_format=Verdict, temperature=1.5, max_tokens=200, n=2
    )

    assert [True, True] == [isinstance(choice.message.parsed, Verdict) for choice in completion.choices]


@BOTH
def test_a_streamed_form_is_parsed(client: openai.OpenAI, model: str) -> None:
    """The SDK's stream helper parses the pieces to the same type."""
    with client.chat.completions.stream(
        model=model, messages=QUESTION, response_format=Verdict, temperature=1.5, max_tokens=200
    ) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed

    assert isinstance(parsed, Verdict)


@BOTH
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "judge"}}])
def test_a_tool_that_must_be_called_is_called(
    client: openai.OpenAI, model: str, choice: ChatCompletionToolChoiceOptionParam
) -> None:
    """One of the tools, or the named one, with arguments of their type, from any model and however hot it samples."""
    (answer,) = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        tools=[JUDGE],
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=1.5,
        max_tokens=200,
    ).choices

    assert ("tool_calls", None) == (answer.finish_reason, answer.message.content)
    for call in answer.message.tool_calls or pytest.fail("no tool was called"):
        assert call.type == "function"
        assert "judge" == call.function.name
        assert {"sure": bool} == {name: type(value) for name, value in json.loads(call.function.arguments).items()}


@BOTH
def test_completions_of_tokens(client: openai.OpenAI, model: str) -> None:
    """A prompt of tokens is read as such, and each of its tokens counted."""
    completion = client.completions.create(model=model, prompt=[[40, 41, 42], [43]], temperature=0, max_tokens=4)

    assert completion.usage is not None
    assert (4, [0, 1]) == (completion.usage.prompt_tokens, [choice.index for choice in completion.choices])


@BOTH
def test_log_probabilities_are_the_models(client: openai.OpenAI, model: str) -> None:
    """Greedy: each sampled token is the likeliest of its alternatives, and no alternatives are more than certain together."""
    (choice,) = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=8, logprobs=True, top_logprobs=5
    ).choices

    assert choice.logprobs is not None and choice.logprobs.content
    for entry in choice.logprobs.content:
        assert (entry.bytes, entry.logprob) == (entry.top_logprobs[0].bytes, entry.top_logprobs[0].logprob)
        assert 5 == len(entry.top_logprobs)
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1.001


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    """Across the border of two tokens; and what was computed for the prompt before is not computed again."""
    (choice,) = client.chat.completions.create(
        model=DEMO, messages=QUESTION, temperature=0, max_tokens=32, stop=["tal of Fr"]
    ).choices
    again = client.chat.completions.create(model=DEMO, messages=QUESTION, temperature=0, max_tokens=32)

    assert ("stop", "The capi") == (choice.finish_reason, choice.message.content)
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0


def test_mlx_without_its_prefix_cache_computes_everything_and_keeps_nothing(
    client: openai.OpenAI, real_service: LiveServer
) -> None:
    """Switched off for a load, an equal prompt is computed anew, the answer stays the same, and a stop writes no file."""

    def life(**switch: bool) -> tuple[list[str | None], list[int], int]:
        """What one worker says to the same question twice, what it had in its cache, and how many files it leaves."""
        before = set(real_service.home.glob("prefix-cache/*/*"))
        real_service.load("tiny-again", path=str(real_service.home / TINY), performance_overrides=switch)
        answers = [
            client.chat.completions.create(
                model="tiny-again", messages=[{"role": "user", "content": LONG_TEXT}], temperature=0, max_tokens=4
            )
            for _ in range(2)
        ]
        real_service.http.post("/admin/models/unload", json={"model_id": "tiny-again"}).raise_for_status()
        usages = [answer.usage for answer in answers if answer.usage is not None]
        cached = [usage.prompt_tokens_details.cached_tokens or 0 for usage in usages if usage.prompt_tokens_details]
        left = set(real_service.home.glob("prefix-cache/*/*")) - before
        return [answer.choices[0].message.content for answer in answers], cached, len(left)

    (first, again), cached, left = life(prefix_cache=False)
    assert (cached, left) == ([0, 0], 0)
    assert first == again
    _, cached, left = life()
    # The first begins as the canary's prompt did.
    assert cached[0] < cached[1]
    assert left == 1
