"""OpenAI's legacy completions: the stream says what the whole answer says, and the best of several are chosen."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from lmx_protocol.messages import Alternative, Finished, Reasoning, Text, TokenLogprob, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_completions_translator import CompletionTranslator
from tests.gateway.asgi import chunks
from tests.unit.supervisor.gateway.dialects.parts import ends, interleaved, text_answers

FINISHED = Finished(request_id="r", reason=FinishReason.STOP, usage=Usage(prompt_tokens=2, completion_tokens=1))
LOGPROB_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def translator(**options: Any) -> CompletionTranslator:
    """A translator for one prompt, if nothing else is said."""
    return CompletionTranslator("cmpl-1", "m", **{"created_unix_seconds": 1, "include_usage": True, "echoes": [""], **options})


def put_together(events: list[dict[str, Any]], choice: int) -> dict[str, Any]:
    """What a client that reads the stream's chunks of one choice knows at the end."""
    known: dict[str, Any] = {"text": "", "finish_reason": None, "logprobs": {name: [] for name in LOGPROB_LISTS}}
    for event in events:
        for shown in event["choices"]:
            if shown["index"] == choice:
                known["text"] += shown["text"]
                known["finish_reason"] = shown["finish_reason"] or known["finish_reason"]
                for name, values in (shown["logprobs"] or {}).items():
                    known["logprobs"][name] += values
    return known


@given(
    st.data(),
    st.lists(st.tuples(st.text(), text_answers(), ends(), text_answers(), ends()), min_size=1, max_size=2),
    st.booleans(),
)
def test_the_stream_and_the_whole_answer_say_the_same(
    data: st.DataObject,
    prompts: list[tuple[str, list[AnswerPart], Finished, list[AnswerPart], Finished]],
    logprobs: bool,
) -> None:
    """Text with its echo, log-probabilities with offsets that go on from chunk to chunk, finish reasons, and usage."""
    echoes = [echo for echo, *_ in prompts]
    answers = [parts for _, first, _, second, _ in prompts for parts in (first, second)]
    finished = [end for _, _, first, _, second in prompts for end in (first, second)]
    translate = translator(echoes=echoes, candidates=2, shown=2, logprobs=logprobs)
    collected = [CollectedAnswer(finished=end) for end in finished]

    body = translate.opening()
    for choice, part in data.draw(interleaved(answers)):
        collected[choice].add(part)
        body += translate.part(choice, part) + translate.keep_alive()
    body += b"".join(translate.finished(choice, end) for choice, end in enumerate(finished)) + translate.closing(finished)
    whole = json.loads(translate.whole(collected))

    assert all(not line or line.startswith(("data: ", ": ")) for line in body.decode().splitlines())
    *events, usage_event, done = chunks(body.replace(translate.keep_alive(), b""))
    assert "[DONE]" == done
    assert whole["usage"] == usage_event["usage"]
    Completion.model_validate(whole, strict=True)
    for shown in whole["choices"]:
        assert put_together(events, shown["index"]) == {
            "text": shown["text"],
            "finish_reason": shown["finish_reason"],
            "logprobs": shown["logprobs"] or {name: [] for name in LOGPROB_LISTS},
        }


def test_log_probabilities_are_in_the_legacy_shape() -> None:
    """Lists side by side; the sampled token is among its alternatives; offsets count characters, across halves of one."""
    entries = tuple(
        TokenLogprob(token=token, logprob=-1.0, alternatives=(Alternative(token=b"x", logprob=-2.0),))
        for token in (b"h\xc3", b"\xa9", b"!")
    )
    answer = CollectedAnswer(text="hé!", logprobs=list(entries), finished=FINISHED)

    whole = json.loads(translator(logprobs=True).whole([answer]))

    assert whole["choices"][0]["logprobs"] == {
        "tokens": [r"bytes:\x68\xc3", r"bytes:\xa9", "!"],
        "token_logprobs": [-1.0, -1.0, -1.0],
        "top_logprobs": [
            {"x": -2.0, r"bytes:\x68\xc3": -1.0},
            {"x": -2.0, r"bytes:\xa9": -1.0},
            {"x": -2.0, "!": -1.0},
        ],
        "text_offset": [0, 1, 2],
    }


def test_the_best_candidates_are_shown() -> None:
    """Those with the highest log-probability per token, of each prompt for itself; all of them are paid for."""

    def candidate(text: str, *logprobs: float) -> CollectedAnswer:
        entries = [TokenLogprob(token=b"t", logprob=logprob) for logprob in logprobs]
        return CollectedAnswer(text=text, logprobs=entries, finished=FINISHED)

    answers = [
        candidate("worse", -2.0),
        candidate("longer and best", -1.0, -1.0, -0.5),
        candidate("empty"),
        candidate("a", -0.1),
        candidate("b", -0.2),
        candidate("c", -0.1),
    ]

    whole = json.loads(translator(echoes=["", ">"], candidates=3, shown=2).whole(answers))

    assert [("longer and best", 0), ("worse", 1), (">a", 2), (">c", 3)] == [
        (choice["text"], choice["index"]) for choice in whole["choices"]
    ]
    assert all(choice["logprobs"] is None for choice in whole["choices"])
    assert (4, 6) == (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"])


def test_thoughts_are_text_here() -> None:
    """This interface has no other place for them, and nothing that a model said is dropped."""
    answer = CollectedAnswer(finished=FINISHED)
    parts: list[AnswerPart] = [Reasoning(request_id="r", text="hm "), Text(request_id="r", text="so")]
    for part in parts:
        answer.add(part)
    translate = translator()

    streamed = "".join(event["choices"][0]["text"] for part in parts for event in chunks(translate.part(0, part)))

    assert "hm so" == streamed == json.loads(translate.whole([answer]))["choices"][0]["text"]
