"""Text of one request: characters stay whole, control tokens stay out, stop strings end it wherever tokens are cut."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_worker.backends.base import TextDelta
from lmx_worker.backends.mlx.text_stream import TextStream, visible_tokens
from lmx_worker.text.output import AnswerOutput
from tests.support.mlx_models import TINY_CORPUS, write_tiny_mlx_model

ALPHABET = "".join(sorted(set(TINY_CORPUS)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny model's tokenizer in mlx-lm's wrapper."""
    directory: Path = write_tiny_mlx_model(tmp_path_factory.mktemp("tiny"))
    from mlx_lm.utils import load_tokenizer

    return load_tokenizer(directory)


def stream(tokenizer: Any, *stops: str, marks: frozenset[str] = frozenset()) -> TextStream:
    """A stream in which the three control tokens are silent, but for those of marks."""
    is_visible = visible_tokens(tokenizer, len(tokenizer), marks)
    return TextStream(tokenizer.detokenizer, is_visible, AnswerOutput("r", stops=stops))


def texts(deltas: list[Any]) -> str:
    """What the deltas say."""
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    return "".join(delta.text for delta in deltas)


def run(text_stream: TextStream, tokens: list[int]) -> tuple[str, list[str]]:
    """The whole text and the pieces it came in; stops feeding after a stop string, as the backend does."""
    pieces = []
    for token in tokens:
        pieces.append(texts(text_stream.push(token)))
        if text_stream.output.has_ended:
            return "".join(pieces), pieces
    pieces.append(texts(text_stream.finish()))
    return "".join(pieces), pieces


def test_an_emoji_over_several_tokens_comes_out_whole(tokenizer: Any) -> None:
    """No piece holds a part of a character, even though every byte is a token of its own."""
    tokens = tokenizer.encode("a\N{GRINNING FACE}b", add_special_tokens=False)
    assert len(tokens) > 3
    text, pieces = run(stream(tokenizer), tokens)
    assert text == "a\N{GRINNING FACE}b"
    assert not any("�" in piece for piece in pieces)


def test_control_tokens_say_nothing(tokenizer: Any) -> None:
    """A control token in the middle of an answer leaves no trace in its text."""
    assert run(stream(tokenizer), [*tokenizer.encode("fox"), 1, *tokenizer.encode(" dog")])[0] == "fox dog"


def test_control_tokens_of_marks_are_seen(tokenizer: Any) -> None:
    """A control token that the model's answer format is made of is text to the parser; the others stay silent."""
    tokens = [*tokenizer.encode("fox"), 1, 2, *tokenizer.encode("dog")]
    assert run(stream(tokenizer, marks=frozenset(["<|im_start|>tool"])), tokens)[0] == "fox<|im_start|>dog"


def test_a_stop_string_is_found_across_token_borders(tokenizer: Any) -> None:
    """The string is matched in the text: here it begins and ends inside tokens that are not its own."""
    text_stream = stream(tokenizer, "ick bro")
    text, _ = run(text_stream, tokenizer.encode("the quick brown fox"))
    assert text == "the qu"
    assert text_stream.output.stop_sequence == "ick bro"


def test_a_near_miss_is_given_back(tokenizer: Any) -> None:
    """Text held back as the beginning of a stop string appears once it turns out to be none, or at the end."""
    text_stream = stream(tokenizer, "quicker", "fox!")
    assert run(text_stream, tokenizer.encode("the quick brown fox"))[0] == "the quick brown fox"
    assert text_stream.output.stop_sequence is None


def test_nothing_is_final_after_the_stop_string(tokenizer: Any) -> None:
    """Whatever is fed or flushed after it, the text has ended."""
    text_stream = stream(tokenizer, "fox")
    assert run(text_stream, tokenizer.encode("the fox"))[0] == "the "
    assert texts(text_stream.push(tokenizer.encode(" dog")[0])) == ""
    assert texts(text_stream.finish()) == ""


@settings(deadline=None)
@given(data=st.data(), text=st.text(ALPHABET, min_size=1, max_size=60))
def test_streaming_equals_cutting_the_whole_text(tokenizer: Any, data: st.DataObject, text: str) -> None:
    """For any text and stop strings: the pieces add up to the text before the first stop string to be completed."""
    text = "x" + text  # the detokenizer drops one leading space, as the tokenizer's own decode does
    starts = data.draw(st.lists(st.integers(0, len(text) - 1), max_size=3))
    stops = [text[start : start + data.draw(st.integers(1, 5))] for start in starts] + ["zzz!"]
    text_stream = stream(tokenizer, *stops)
    streamed, _ = run(text_stream, tokenizer.encode(text, add_special_tokens=False))
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if found:
        end, negative_length, stop = min(found)
        assert (streamed, text_stream.output.stop_sequence) == (text[: end + negative_length], stop)
    else:
        assert (streamed, text_stream.output.stop_sequence) == (text, None)
