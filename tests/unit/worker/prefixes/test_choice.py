"""Which computed prefixes are worth keeping, and what a kept one saves."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_protocol import limits
from lmx_worker.prefixes.choice import choose, common_prefix_length, reusable_tokens

TOKEN_BYTES = 10_000
PLENTY = 2**50


@dataclass(frozen=True, slots=True)
class Computed:
    """A prefix of a fixed size per token."""

    tokens: list[int] = field(default_factory=list)
    can_cut: bool = True
    is_saved: bool = False

    @property
    def nbytes(self) -> int:
        return TOKEN_BYTES * len(self.tokens)


def tokens(count: int, *, first: int = 0) -> list[int]:
    """So many different tokens."""
    return list(range(first, first + count))


def chosen(*candidates: Computed, bytes_max: int = PLENTY) -> list[tuple[Computed, int]]:
    """What is kept, and how much of it."""
    return [(choice.candidate, choice.length) for choice in choose(candidates, bytes_max=bytes_max)]


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_the_common_prefix_is_what_a_loop_would_find(left: list[int], right: list[int]) -> None:
    """Bisecting over slices finds the same length as walking both lists."""
    walked = 0
    while walked < min(len(left), len(right)) and left[walked] == right[walked]:
        walked += 1
    assert common_prefix_length(left, right) == walked


@pytest.mark.parametrize(
    ("prompt", "can_cut", "saved"),
    [([1, 2, 3, 4], True, 3), ([1, 2, 9], True, 2), ([1, 2, 9], False, 0), ([1, 2, 3], True, 2), ([1, 2, 3], False, 0)],
)
def test_what_a_prefix_saves(prompt: list[int], can_cut: bool, saved: int) -> None:
    """One that cannot be cut saves all of itself or nothing, and one token is always left to compute."""
    assert reusable_tokens([1, 2, 3], prompt, can_cut=can_cut) == saved


def test_what_was_used_last_is_kept_first() -> None:
    """Where not all fit, the earlier candidates do."""
    first, second = Computed(tokens(100)), Computed(tokens(100, first=500), can_cut=False)
    assert chosen(first, second, bytes_max=first.nbytes + second.nbytes - 1) == [(first, 100)]


def test_a_prefix_below_the_minimum_is_not_kept() -> None:
    """Computing so little again costs less than a file."""
    assert chosen(Computed(tokens(limits.PREFIX_TOKENS_MIN - 1))) == []


def test_ten_questions_below_one_system_prompt_are_not_ten_copies() -> None:
    """What adds little of its own to one that is kept is not kept; what adds much is."""
    system = tokens(2000)
    questions = [Computed([*system, *tokens(100, first=10_000 + 1000 * number)]) for number in range(10)]
    story = Computed([*system, *tokens(1000, first=50_000)])
    assert chosen(*questions, story) == [(questions[0], 2100), (story, 3000)]


def test_prefixes_that_cannot_be_cut_do_not_cover_each_other() -> None:
    """The state at the end of a longer text is of no use for a shorter one, so both are kept."""
    longer, shorter = Computed(tokens(300), can_cut=False), Computed(tokens(200), can_cut=False)
    assert chosen(longer, shorter) == [(longer, 300), (shorter, 200)]


def test_one_that_is_too_large_is_cut_to_what_fits() -> None:
    """The beginning is what prompts have in common, so the beginning is kept, and it keeps to the bound."""
    large = Computed(tokens(1000))
    ((_, length),) = chosen(large, bytes_max=large.nbytes // 2)
    assert 400 < length < 500
    assert chosen(Computed(tokens(1000), can_cut=False), bytes_max=large.nbytes // 2) == []


def test_no_file_is_larger_than_a_file_may_be() -> None:
    """However much the disk may hold, one prefix stays within what is read in one go."""
    ((_, length),) = chosen(Computed(tokens(200_000)))
    assert length * TOKEN_BYTES <= limits.PREFIX_FILE_BYTES_MAX


def test_a_copy_on_the_disk_stands_for_the_one_in_memory() -> None:
    """A file that can do all that the computed prefix can is kept instead, and nothing is written."""
    saved = Computed(tokens(300), is_saved=True)
    assert chosen(Computed(tokens(300)), saved) == [(saved, 300)]
    assert chosen(Computed(tokens(200)), saved) == [(saved, 300)]


def test_a_file_is_kept_whole_or_not_at_all() -> None:
    """Nothing rewrites what lies on the disk."""
    assert chosen(Computed(tokens(1000), is_saved=True), bytes_max=TOKEN_BYTES * 999) == []


def test_a_conversation_that_went_on_replaces_its_beginning() -> None:
    """The longer one covers the file of the shorter one, which is not kept beside it."""
    longer = Computed(tokens(1000))
    assert chosen(longer, Computed(tokens(400), is_saved=True)) == [(longer, 1000)]


def test_the_number_of_files_is_bounded() -> None:
    """However many there are and however small."""
    many = [Computed(tokens(100, first=1000 * number)) for number in range(50)]
    assert len(chosen(*many)) == limits.PREFIX_FILES_PER_MODEL_MAX
