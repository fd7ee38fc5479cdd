"""OpenAI chat: whatever a worker says and however it is cut, the stream says what the whole answer says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lmx_protocol.messages import Alternative, Finished, Text, TokenLogprob, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer, CollectedCall
from lmx_supervisor.gateway.dialects.openai_chat_translator import ChatTranslator
from tests.gateway.asgi import chunks
from tests.unit.supervisor.gateway.dialects.parts import chat_answers, ends, interleaved


def put_together(events: list[dict[str, Any]], choice: int) -> dict[str, Any]:
    """What a client that reads the stream's chunks of one choice knows at the end."""
    known: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": [], "logprobs": [], "finish_reason": None}
    for event in events:
        for shown in event["choices"]:
            if shown["index"] != choice:
                continue
            delta = shown["delta"]
            known["content"] += delta.get("content", "")
            known["reasoning_content"] += delta.get("reasoning_content", "")
            known["logprobs"] += (shown["logprobs"] or {"content": []})["content"]
            known["finish_reason"] = shown["finish_reason"] or known["finish_reason"]
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    known["calls"].append({"id": call["id"], "type": "function", "function": dict(call["function"])})
                else:
                    known["calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return known


@given(st.data(), st.lists(st.tuples(chat_answers(), ends()), min_size=1, max_size=3), st.booleans())
def test_the_stream_and_the_whole_answer_say_the_same(
    data: st.DataObject, choices: list[tuple[list[AnswerPart], Finished]], logprobs: bool
) -> None:
    """Text, thoughts, calls, log-probabilities, finish reasons and usage of every choice; and no event is cut by a line end."""
    translator = ChatTranslator(
        "chatcmpl-1", '"text"', created_unix_seconds=1, include_usage=True, choices=len(choices), logprobs=logprobs
    )
    finished = [end for _, end in choices]
    collected = [CollectedAnswer(finished=end) for end in finished]
    body = translator.opening()
    for choice, part in data.draw(interleaved([parts for parts, _ in choices])):
        collected[choice].add(part)
        body += translator.part(choice, part) + translator.keep_alive()
    body += b"".join(translator.finished(choice, end) for choice, end in enumerate(finished)) + translator.closing(finished)
    whole = json.loads(translator.whole(collected))

    assert all(not line or line.startswith("data: ") for line in body.decode().splitlines())
    *events, usage_event, done = chunks(body)
    assert "[DONE]" == done
    assert whole["usage"] == usage_event["usage"]
    ChatCompletion.model_validate(whole, strict=True)
    for event in events:
        ChatCompletionChunk.model_validate(event, strict=True)
    for shown in whole["choices"]:
        message = shown["message"]
        assert put_together(events, shown["index"]) == {
            "content": message["content"] or "",
            "reasoning_content": message.get("reasoning_content", ""),
            "calls": message.get("tool_calls", []),
            "logprobs": (shown["logprobs"] or {"content": []})["content"],
            "finish_reason": shown["finish_reason"],
        }


def test_log_probabilities_are_in_the_vendors_shape() -> None:
    """Token, logarithm, bytes and alternatives; a token that is half a character shows a replacement and its exact bytes."""
    translator = ChatTranslator("chatcmpl-1", "m", created_unix_seconds=1, include_usage=False, logprobs=True)
    entry = TokenLogprob(token=b"\xf0\x9f", logprob=-0.5, alternatives=(Alternative(token=b"a", logprob=-1.5),))

    (chunk,) = chunks(translator.part(0, Text(request_id="r", text="", logprobs=(entry,))))

    expected = {
        "token": "�",
        "logprob": -0.5,
        "bytes": [0xF0, 0x9F],
        "top_logprobs": [{"token": "a", "logprob": -1.5, "bytes": [97]}],
    }
    assert {"content": [expected], "refusal": None} == chunk["choices"][0]["logprobs"]
    assert {"content": ""} == chunk["choices"][0]["delta"]


def test_no_log_probabilities_unless_asked_for() -> None:
    """Those that a worker tells for its own reasons are not shown."""
    translator = ChatTranslator("chatcmpl-1", "m", created_unix_seconds=1, include_usage=False)
    entry = TokenLogprob(token=b"a", logprob=-0.5)

    (chunk,) = chunks(translator.part(0, Text(request_id="r", text="a", logprobs=(entry,))))

    assert chunk["choices"][0]["logprobs"] is None


def test_the_prompt_counts_once_and_every_completion_counts() -> None:
    """Choices share a prompt; what one of them found in the cache because another had put it there is no saving."""
    ends = [
        Finished(
            request_id="r",
            reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=10, completion_tokens=completion, cached_tokens=cached, reasoning_tokens=1),
        )
        for completion, cached in ((3, 4), (5, 9))
    ]
    translator = ChatTranslator("chatcmpl-1", "m", created_unix_seconds=1, include_usage=True, choices=2)

    usage, _ = chunks(translator.closing(ends))

    assert usage["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 8,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize(("text", "content"), [("", None), ("I will look.", "I will look.")])
def test_content_is_null_only_beside_calls(text: str, content: str | None) -> None:
    """A call without a word has null content, as the vendor sends it."""
    translator = ChatTranslator("chatcmpl-1", "m", created_unix_seconds=1, include_usage=False)
    answer = CollectedAnswer(text=text, finished=Finished(request_id="r", reason=FinishReason.STOP, usage=Usage()))
    assert (text, "tool_calls" in json.loads(translator.whole([answer]))) == (text, False)
    answer.tool_calls.append(CollectedCall("c", "f", "{}"))

    message = json.loads(translator.whole([answer]))["choices"][0]["message"]

    assert (content, 1) == (message["content"], len(message["tool_calls"]))
