"""Reasoning, text and calls of tools, in every format, however the text is cut."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_worker.text.answer_format import CALL_STYLES, AnswerFormat
from lmx_worker.text.answer_reader import Reading
from lmx_worker.text.source import UNSETTLED_CHARACTERS_MAX
from lmx_worker.text.tool_book import ToolBook
from tests.support.answers import MALFORMED, PARIS, SAMPLES, TOOLS, Meaning, Sample, read

CHUNKINGS = 1000
ALL = [*SAMPLES, *MALFORMED]


def chunked(text: str, dice: random.Random) -> Iterator[str]:
    """The text in parts of random sizes, from single characters to all of it."""
    scale = dice.choice((1, 3, 8, 8, 20, 20, 80, 80))
    while text:
        size = dice.randint(1, scale)
        yield text[:size]
        text = text[size:]


@pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
def test_an_answer_is_understood(sample: Sample) -> None:
    """What a model wrote, given at once, means what it should; what cannot be understood is text."""
    assert read(sample.reading, [sample.written]) == sample.means


@pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
def test_a_thousand_chunkings_say_the_same(sample: Sample) -> None:
    """However the answer is cut, the pieces that are streamed add up to the answer that is not."""
    dice = random.Random(sample.name)
    whole = read(sample.reading, [sample.written])
    for _ in range(CHUNKINGS):
        assert read(sample.reading, chunked(sample.written, dice)) == whole


@st.composite
def scribbles(draw: st.DrawFn) -> tuple[Reading, str, list[str]]:
    """A format, and words between fragments of it in any order."""
    name = draw(st.sampled_from([*CALL_STYLES, "harmony"]))
    sample = Sample(name, "", Meaning(), name)
    assert sample.reading.format is not None
    json_fragments = ['{"name": "now", "arguments": ', '{"a": ', '"', "{", "}", "[", "]", ",", "=", ">", ")", "now", "\n", " "]
    fragments = st.sampled_from([*sorted(sample.reading.format.marks), *json_fragments, "<think>", "</think>"])
    parts = draw(st.lists(st.one_of(fragments, st.just("WORD")), max_size=30))
    words = []
    for index, part in enumerate(parts):
        if part == "WORD":
            words.append(f"w{index}w")
            parts[index] = words[-1]
    reasoning = draw(st.sampled_from([None, SAMPLES[6].reasoning]))
    format_ = sample.reading.format if name == "harmony" else AnswerFormat(calls=CALL_STYLES[name], reasoning=reasoning)
    is_open = reasoning is not None and draw(st.booleans())
    return Reading(format=format_, tools=ToolBook(TOOLS), begins_in_reasoning=is_open), "".join(parts), words


@settings(deadline=None)
@given(scribble=scribbles(), seed=st.integers(0, 2**32))
def test_scribbles_lose_nothing_and_do_not_depend_on_the_cuts(scribble: tuple[Reading, str, list[str]], seed: int) -> None:
    """Whatever a model scribbles in whatever format: every word of it comes out somewhere, and the same way for every cut."""
    reading, written, words = scribble
    whole = read(reading, [written])
    assert read(reading, chunked(written, random.Random(seed))) == whole
    seen = f"{whole.text} {whole.reasoning} {whole.calls}"
    assert not [word for word in words if word not in seen]
    if not whole.calls and not whole.reasoning and reading.format is not None and not reading.format.is_harmony:
        marks = ("<think>", "</think>") if reading.format.reasoning else ()
        assert without(whole.text, *marks, " ", "\n") == without(written, *marks, " ", "\n")


def without(text: str, *parts: str) -> str:
    """The text with some parts taken out."""
    for part in parts:
        text = text.replace(part, "")
    return text


@settings(deadline=None)
@given(text=st.text(max_size=200), seed=st.integers(0, 2**32))
def test_a_plain_answer_comes_out_as_it_went_in(text: str, seed: int) -> None:
    """Where nothing is to be parsed, and where nothing looks like a mark, text is left alone to the last space."""
    for reading in (Reading(), Reading(format=AnswerFormat()), Reading(format=AnswerFormat(), tools=ToolBook(TOOLS))):
        assert read(reading, chunked(text, random.Random(seed))) == Meaning(text)


def test_calls_are_text_where_tools_are_not_offered() -> None:
    """Without tools the answer's calls are not parsed; its reasoning still is."""
    reading = Reading(format=AnswerFormat(calls=CALL_STYLES["hermes"], reasoning=SAMPLES[6].reasoning))
    written = '<think>Hm</think><tool_call>{"name": "now"}</tool_call>'
    assert read(reading, [written]) == Meaning('<tool_call>{"name": "now"}</tool_call>', "Hm")


def test_kimis_own_call_ids_are_kept() -> None:
    """Its template shows them to the model again, so they must come back as they were."""
    sample = next(sample for sample in SAMPLES if sample.name == "kimi")
    assert read(sample.reading, [sample.written]).call_ids == ["functions.get_weather:0", "functions.now:1"]


def test_arguments_stream_while_they_are_written() -> None:
    """A long argument is passed on piece by piece, not held until its end."""
    for sample in SAMPLES:
        if sample.means.calls[:1] != [PARIS] or "in a string" in sample.name:
            continue
        before = sample.written[: sample.written.index("Paris") + 3]
        meaning = read(sample.reading, [before])
        (call,) = meaning.calls
        assert str(call[1]).endswith("Par"), sample.name


def test_no_mark_that_opens_calls_is_a_part_of_another() -> None:
    """Else which of them is found would depend on how the text is cut."""
    for style in CALL_STYLES.values():
        openers = style.openers
        assert not [(one, other) for one in openers for other in openers if one is not other and one in other]


def test_an_attempt_is_given_up_after_a_bound() -> None:
    """A model that opens a call and babbles on cannot make the worker hold its text for ever."""
    written = '<tool_call>{"name": "' + "x" * (UNSETTLED_CHARACTERS_MAX + 10)
    reading = SAMPLES[2].reading
    assert read(reading, [written[start : start + 100] for start in range(0, len(written), 100)]) == Meaning(written)
