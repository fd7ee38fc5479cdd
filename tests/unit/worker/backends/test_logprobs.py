"""Reading log-probabilities out of a row of logits."""

import math

import numpy as np
import pytest

from lmx_protocol.messages import TokenLogprob
from lmx_worker.backends.logprobs import LogprobReader


def read(logits: list[float], token: int, alternatives: int = 0) -> TokenLogprob:
    """What is told of `token`, whose bytes are its number."""
    reader = LogprobReader(alternatives, lambda token: str(token).encode())
    reader.note(np.array(logits, dtype=np.float32))
    return reader.of(token)


def test_they_are_the_log_softmax() -> None:
    """Four equal logits are a quarter each, however large they are."""
    assert read([1000.0] * 4, 2).logprob == pytest.approx(math.log(0.25), abs=1e-6)


def test_alternatives_come_likeliest_first_and_include_the_token() -> None:
    """The two likeliest of four, in order, with their own bytes; the sampled token keeps its own entry."""
    entry = read([0.0, 3.0, 1.0, 2.0], 2, alternatives=2)
    assert entry.token == b"2"
    assert [other.token for other in entry.alternatives] == [b"1", b"3"]
    assert entry.alternatives[0].logprob > entry.alternatives[1].logprob > entry.logprob
    assert read([0.0, 3.0], 1, alternatives=1).alternatives[0].logprob == read([0.0, 3.0], 1).logprob


def test_no_more_alternatives_than_tokens() -> None:
    """A vocabulary smaller than the wish is told whole."""
    assert len(read([0.0, 1.0, 2.0], 0, alternatives=20).alternatives) == 3


def test_what_is_impossible_or_broken_is_a_number() -> None:
    """Minus infinity and "not a number" are told as OpenAI tells the impossible, and certainty is no more than 0."""
    assert read([0.0, -math.inf], 1).logprob == -9999.0
    assert read([0.0, math.nan], 1).logprob == -9999.0
    assert read([80.0, 0.0], 0).logprob == 0.0


def test_the_row_is_copied() -> None:
    """What sampling writes into the row afterwards, as a form does, changes nothing."""
    row = np.array([0.0, 1.0], dtype=np.float32)
    reader = LogprobReader(0, lambda _: b"")
    reader.note(row)
    row[:] = -np.inf
    assert reader.of(0).logprob == pytest.approx(-math.log(1 + math.e), abs=1e-6)
