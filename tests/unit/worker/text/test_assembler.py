"""From token bytes to text: whole characters, whole stop strings."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lmx_worker.text.assembler import TextAssembler


def assemble(data: bytes, borders: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    """The pieces that come out when the bytes are cut at these places."""
    assembler = TextAssembler(stops)
    cuts = [0, *sorted(min(border, len(data)) for border in borders), len(data)]
    pieces = [assembler.push(data[start:end]) for start, end in pairwise(cuts)]
    return [*pieces, assembler.finish()]


def test_a_character_comes_out_whole() -> None:
    """An emoji cut into single bytes appears once, with its last byte."""
    assert assemble("😀!".encode(), [1, 2, 3]) == ["", "", "", "😀!", ""]


def test_a_cut_off_character_is_replaced_at_the_end() -> None:
    """Bytes that never become a character end as one replacement character."""
    assert assemble("é😀".encode()[:-1], []) == ["é", "\ufffd"]


def test_a_stop_string_of_split_characters_is_found() -> None:
    """Stop strings are looked for in characters, not in bytes."""
    assembler = TextAssembler(["😀"])
    text = "".join(assembler.push(bytes([byte])) for byte in "ok 😀 never".encode())
    assert (text + assembler.finish(), assembler.stop_sequence) == ("ok ", "😀")


@given(text=st.text(max_size=40), borders=st.lists(st.integers(0, 160), max_size=12))
def test_valid_text_survives_any_cutting(text: str, borders: list[int]) -> None:
    """Valid UTF-8 comes out as it went in, without a replacement character of ours."""
    assert "".join(assemble(text.encode(), borders)) == text


@given(data=st.binary(max_size=60), borders=st.lists(st.integers(0, 60), max_size=12))
def test_any_bytes_decode_the_same_however_cut(data: bytes, borders: list[int]) -> None:
    """Broken UTF-8 gives what decoding it at once gives."""
    assert "".join(assemble(data, borders)) == data.decode("utf-8", "replace")
