"""From tokens to deltas: whole characters, stop strings, reasoning and calls, and every token counted once."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_protocol.limits import TOOL_CALLS_MAX
from lmx_protocol.messages import TokenLogprob
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from lmx_worker.text.answer_format import CALL_STYLES, AnswerFormat
from lmx_worker.text.answer_reader import PLAIN, Reading
from lmx_worker.text.output import AnswerOutput, new_call_id
from lmx_worker.text.tool_book import ToolBook
from tests.support.answers import SAMPLES, THINK, TOOLS

HERMES = Reading(format=AnswerFormat(calls=CALL_STYLES["hermes"], reasoning=THINK), tools=ToolBook(TOOLS))
CALL = '<tool_call>{"name": "now", "arguments": {"a": "};"}}</tool_call>'


def output(reading: Reading = PLAIN, *stops: str) -> AnswerOutput:
    """An output whose call ids are numbers."""
    numbers = itertools.count()
    return AnswerOutput("r", reading, stops=stops, make_call_id=lambda: f"id{next(numbers)}")


def run(answer: AnswerOutput, pieces: list[bytes]) -> list[Delta]:
    """Feed tokens until the answer has ended, as a backend does."""
    deltas: list[Delta] = []
    for piece in pieces:
        new = answer.push(piece)
        assert sum(delta.tokens for delta in new if isinstance(delta, TextDelta | ReasoningDelta | ToolCallDelta)) == 1
        deltas += new
        if answer.has_ended:
            break
    last = answer.finish()
    assert not [delta for delta in last if isinstance(delta, TextDelta) and not delta.text and not delta.logprobs]
    return deltas + last


def cut(text: str, size: int) -> list[bytes]:
    """The text's bytes in parts."""
    data = text.encode()
    return [data[start : start + size] for start in range(0, len(data), size)]


def together(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Text, reasoning, and of each call its id, name and arguments."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    calls: list[tuple[str, str, str]] = []
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            if delta.call_id:
                assert delta.index == len(calls)
                calls.append((delta.call_id, delta.name, ""))
            call_id, name, arguments = calls[delta.index]
            calls[delta.index] = (call_id, name, arguments + delta.arguments)
    return text, reasoning, calls


def test_a_character_comes_out_whole() -> None:
    """An emoji cut into single bytes appears once, with its last byte; the tokens before are counted without text."""
    deltas = run(output(), cut("\N{GRINNING FACE}!", 1))
    expected = [("", 1), ("", 1), ("", 1), ("\N{GRINNING FACE}", 1), ("!", 1)]
    assert [(delta.text, delta.tokens) for delta in deltas if isinstance(delta, TextDelta)] == expected


def test_a_cut_off_character_is_replaced_at_the_end() -> None:
    """Bytes that never become a character end as one replacement character."""
    assert together(run(output(), ["é\N{GRINNING FACE}".encode()[:-1]]))[0] == "é\ufffd"


def test_a_stop_string_of_split_characters_is_found() -> None:
    """Stop strings are looked for in characters, not in bytes, and end the answer."""
    answer = output(PLAIN, "\N{GRINNING FACE}")
    deltas = run(answer, cut("ok \N{GRINNING FACE} never", 1))
    assert (together(deltas)[0], answer.stop_sequence, answer.has_ended) == ("ok ", "\N{GRINNING FACE}", True)
    assert answer.reason(FinishReason.LENGTH) == FinishReason.STOP


@settings(deadline=None)
@given(data=st.binary(max_size=60), borders=st.lists(st.integers(0, 60), max_size=12))
def test_any_bytes_decode_the_same_however_cut(data: bytes, borders: list[int]) -> None:
    """Broken UTF-8 gives what decoding it at once gives, and valid UTF-8 itself."""
    cuts = [0, *sorted(min(border, len(data)) for border in borders), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(cuts)]
    assert together(run(output(), pieces))[0] == data.decode("utf-8", "replace")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_text_reasoning_and_calls_become_deltas(size: int) -> None:
    """Each kind comes in deltas of its own; a call's first delta carries its id and name, and calls are numbered."""
    answer = output(HERMES)
    deltas = run(answer, cut(f"<think>\nHm é\n</think>\n\nWell é.\n{CALL}\n{CALL}", size))
    expected = ("Well é.", "Hm é", [("id0", "now", '{"a": "};"}'), ("id1", "now", '{"a": "};"}')])
    assert together(deltas) == expected
    assert answer.reason(FinishReason.STOP) == FinishReason.TOOL_CALLS
    assert answer.reason(FinishReason.LENGTH) == FinishReason.LENGTH


def test_stop_strings_end_text_only() -> None:
    """Reasoning and calls have the model's own form: a stop string in them ends nothing, the same one in the text does."""
    answer = output(HERMES, "};")
    deltas = run(answer, cut("<think>a };</think>b " + CALL + " c }; d", 3))
    assert together(deltas) == ("b c ", "a };", [("id0", "now", '{"a": "};"}')])
    assert (answer.stop_sequence, answer.reason(FinishReason.STOP)) == ("};", FinishReason.STOP)


def test_what_looked_like_a_stop_string_before_a_call_is_text() -> None:
    """A stop string does not reach over a call."""
    answer = output(HERMES, "end!")
    assert together(run(answer, cut(f"the en{CALL}d!", 1)))[0] == "the end!"
    assert answer.stop_sequence is None


def test_reasoning_tokens_are_those_between_the_marks() -> None:
    """Tokens of the answer are not counted as thinking, those of the reasoning are."""
    answer = output(HERMES)
    run(answer, [b"<think>", b"a", b" b", b"</think>", b"\n\n", b"c", b"d"])
    assert answer.reasoning_tokens == 4
    assert not answer.is_thinking


def test_one_call_is_the_end_where_no_more_are_allowed() -> None:
    """Without parallel calls the answer ends when a second one begins; what was said until then stays."""
    answer = output(Reading(format=HERMES.format, tools=HERMES.tools, one_call=True))
    deltas = run(answer, cut(f"a{CALL}{CALL}b", 5))
    assert together(deltas) == ("a", "", [("id0", "now", '{"a": "};"}')])
    assert (answer.has_ended, answer.reason(FinishReason.LENGTH)) == (True, FinishReason.TOOL_CALLS)


def test_calls_have_a_bound() -> None:
    """A model that calls for ever is ended at the protocol's bound."""
    answer = output(HERMES)
    deltas = run(answer, [CALL.encode()] * (TOOL_CALLS_MAX + 5))
    assert (len(together(deltas)[2]), answer.has_ended) == (TOOL_CALLS_MAX, True)


def test_kept_call_ids_are_the_models_own() -> None:
    """Where the format carries ids, those are used."""
    sample = next(sample for sample in SAMPLES if sample.name == "kimi")
    calls = together(run(output(sample.reading), cut(sample.written, 4)))[2]
    assert [call_id for call_id, _, _ in calls] == ["functions.get_weather:0", "functions.now:1"]


def test_new_call_ids_fit_every_template() -> None:
    """Nine letters and digits, which the strictest of templates asks for; never the same twice."""
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(call_id) == 9 and call_id.isalnum() and call_id.isascii() for call_id in ids)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), stop=st.sampled_from(["", ".", "Paris", " ", "\n", "}"]))
def test_cuts_change_nothing_with_stop_strings_either(seed: int, stop: str) -> None:
    """For every format: however the bytes are cut, text, reasoning, calls and the stop string found are the same."""
    dice = random.Random(seed)
    sample = dice.choice(SAMPLES)
    whole, parts = output(sample.reading, stop), output(sample.reading, stop)
    assert together(run(whole, [sample.written.encode()])) == together(run(parts, cut(sample.written, dice.randint(1, 9))))
    assert whole.stop_sequence == parts.stop_sequence


def test_log_probabilities_come_with_text_and_with_nothing_else() -> None:
    """Those of text come with it, also when it was held back; those of thoughts, calls and stop strings are dropped."""
    answer = output(HERMES, "END")
    tokens = ["<think>", "hm", "</think>", "\n", "a", " E", "x", CALL, "b", " EN", "D"]
    given = [TokenLogprob(token=token.encode(), logprob=-1.0) for token in tokens]
    deltas = [delta for token, logprob in zip(tokens, given, strict=True) for delta in answer.push(token.encode(), logprob)]
    said = [delta for delta in [*deltas, *answer.finish()] if isinstance(delta, TextDelta) and delta.text]
    assert [delta.text for delta in said] == ["a", " ", "Ex", "b", " "]
    assert [logprob.token for delta in said for logprob in delta.logprobs] == [b"\n", b"a", b" E", b"x", b"b", b" EN"]


def test_log_probabilities_without_text_are_told_at_the_end() -> None:
    """A token that is no text, such as a control token, was sampled too."""
    answer = output()
    logprob = TokenLogprob(token=b"", logprob=-1.0)
    answer.push_text("", logprob)
    assert answer.finish() == [TextDelta("r", "", tokens=0, logprobs=(logprob,))]
