"""Which sequence serves a request, and how prompts share a step."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_worker.backends.llamacpp.slots import IDLE_STEPS_MAX, Slot, common_prefix, expired, place, share_prefill


def slot(sequence: int, tokens: str, *, busy: bool = False, used_at: int = 0) -> Slot:
    """A slot whose tokens are the code points of a string."""
    return Slot(sequence, [ord(token) for token in tokens], busy, used_at)


def choose(slots: list[Slot], prompt: str, *, partial: bool = True) -> tuple[int, int, int]:
    """(slot, source, reused) for a prompt."""
    placement = place(slots, [ord(token) for token in prompt], partial=partial)
    return placement.slot.sequence, placement.source.sequence, placement.reused


def test_an_empty_slot_is_taken_before_a_cached_one() -> None:
    """Nothing in common: what others computed is kept as long as there is an empty slot."""
    assert choose([slot(0, "abc", used_at=1), slot(1, "")], "xyz") == (1, 1, 0)


def test_the_least_recently_used_slot_is_given_up_first() -> None:
    """Without an empty slot the oldest cache goes."""
    assert choose([slot(0, "abc", used_at=9), slot(1, "def", used_at=3)], "xyz") == (1, 1, 0)


def test_the_longest_prefix_wins() -> None:
    """A conversation continues where it was, in its own slot."""
    assert choose([slot(0, "ab"), slot(1, "abcd"), slot(2, "")], "abcdef") == (1, 1, 4)


def test_one_token_is_always_left_to_compute() -> None:
    """A prompt that is cached as a whole still needs the logits of its last token."""
    assert choose([slot(0, "abcdef")], "abc") == (0, 0, 2)


def test_a_busy_sequence_is_copied() -> None:
    """The prefix of a running request serves another one too."""
    assert choose([slot(0, "abcd", busy=True), slot(1, "")], "abcx") == (1, 0, 3)


def test_a_long_cache_is_not_cut_for_a_short_prefix() -> None:
    """Where a slot would lose more than it gives, the prefix is copied into the oldest slot instead."""
    slots = [slot(0, "sysAAAAAAAAAA", used_at=5), slot(1, "zzz", used_at=1)]
    assert choose(slots, "sysB") == (1, 0, 3)
    assert choose(slots[:1], "sysB") == (0, 0, 3)


def test_uncuttable_memory_is_reused_whole_or_not_at_all() -> None:
    """A recurrent state serves only prompts that continue exactly after it, and is never copied."""
    assert choose([slot(0, "abc")], "abcd", partial=False) == (0, 0, 3)
    assert choose([slot(0, "abcx")], "abcd", partial=False) == (0, 0, 0)
    assert choose([slot(0, "abc", busy=True), slot(1, "")], "abcd", partial=False) == (1, 1, 0)


@given(left=st.lists(st.integers(0, 2), max_size=8), right=st.lists(st.integers(0, 2), max_size=8))
def test_common_prefix_is_common_and_longest(left: list[int], right: list[int]) -> None:
    """Both begin with it, and differ right after it."""
    length = common_prefix(left, right)
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]


def test_an_idle_prefix_expires() -> None:
    """A prefix that nobody wanted for long is given up; running requests and recent prefixes are not."""
    slots = [slot(0, "abc", used_at=1), slot(1, "abc", used_at=2), slot(2, "abc", used_at=1, busy=True), slot(3, "")]
    assert expired(slots, IDLE_STEPS_MAX + 2) == [slots[0]]


def test_equal_shares_and_leftovers() -> None:
    """Long prompts get equal shares; what a short one leaves goes to the long ones."""
    assert share_prefill([100, 100], 64) == [32, 32]
    assert share_prefill([10, 100, 100], 64) == [10, 27, 27]
    assert share_prefill([0, 100], 64) == [0, 64]
    assert share_prefill([5, 5, 5], 2) == [1, 1, 0]


@given(remaining=st.lists(st.integers(0, 300), max_size=9), budget=st.integers(0, 256))
def test_shares_use_the_budget_and_no_more(remaining: list[int], budget: int) -> None:
    """The budget is used up while anyone needs it, nobody gets more than it needs, and shares differ by need only."""
    shares = share_prefill(remaining, budget)
    assert sum(shares) == min(budget, sum(remaining))
    assert all(0 <= share <= need for share, need in zip(shares, remaining, strict=True))
    unfinished = [share for share, need in zip(shares, remaining, strict=True) if share < need]
    assert max(unfinished, default=0) - min(unfinished, default=0) <= 1
