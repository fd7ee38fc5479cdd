"""Sampling with a key per draw: reproducible, repeatable after a pause, and within the filters asked for."""

import math

import pytest

from lmx_protocol.messages import Sampling
from lmx_worker.backends.mlx.libraries import import_mlx
from lmx_worker.backends.mlx.sampling import KeyedSampler, LogitsProcessor, make_processors, make_sampler

PROBABILITIES = [0.5, 0.25, 0.15, 0.07, 0.03]
DRAWS = 200


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """MLX, imported the way the worker does."""
    import_mlx()


def draw(sampler: KeyedSampler, count: int = DRAWS, *, biased_by: LogitsProcessor = lambda _, scores: scores) -> list[int]:
    """That many tokens from `PROBABILITIES`."""
    import mlx.core as mx

    scores = biased_by(mx.array([], dtype=mx.int32), mx.log(mx.array([PROBABILITIES])))
    return [int(sampler(scores).item()) for _ in range(count)]


def draws(sampling: Sampling, count: int = DRAWS) -> list[int]:
    """That many tokens from `PROBABILITIES` with a fresh sampler."""
    return draw(KeyedSampler(sampling, vocabulary_size=len(PROBABILITIES)), count)


def processed(sampling: Sampling, context: list[int], logits: list[float]) -> list[float]:
    """The logits after the one processor that `sampling` asks for."""
    import mlx.core as mx

    (processor,) = make_processors(sampling)
    (row,) = processor(mx.array(context), mx.array([logits], dtype=mx.float32)).tolist()
    return list(row)


def test_greedy_requests_have_no_sampler() -> None:
    """Temperature 0 and top_k 1 both mean the likeliest token, which the batch takes for all in one call."""
    assert make_sampler(Sampling(temperature=0.0), vocabulary_size=5) is None
    assert make_sampler(Sampling(temperature=1.0, top_k=1), vocabulary_size=5) is None
    assert make_sampler(Sampling(temperature=1.0), vocabulary_size=5) is not None


def test_a_seed_fixes_every_draw_whatever_else_is_drawn() -> None:
    """The global random state has no influence on a seeded request, and another seed draws differently."""
    import mlx.core as mx

    first = draws(Sampling(temperature=1.0, seed=11))
    mx.random.seed(99)
    assert draws(Sampling(temperature=1.0, seed=11)) == first
    assert draws(Sampling(temperature=1.0, seed=12)) != first


def test_without_a_seed_requests_differ() -> None:
    """Two unseeded requests do not repeat each other."""
    assert draws(Sampling(temperature=1.0)) != draws(Sampling(temperature=1.0))


def test_setting_the_position_back_repeats_the_draws() -> None:
    """A draw that was made ahead and thrown away comes out the same when it is made again."""
    sampler = KeyedSampler(Sampling(temperature=1.0, seed=5), vocabulary_size=5)
    first = draw(sampler, 20)
    sampler.position = 10
    assert draw(sampler, 10) == first[10:]


def test_draws_follow_the_probabilities() -> None:
    """Keys derived from positions are as good as a random stream: frequencies come out near the probabilities."""
    drawn = draws(Sampling(temperature=1.0, top_k=0, seed=1), count=2000)
    for token, probability in enumerate(PROBABILITIES):
        assert drawn.count(token) / 2000 == pytest.approx(probability, abs=0.04)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2, seed=3), {0, 1}),
        (Sampling(temperature=1.0, top_k=0, top_p=0.7, seed=3), {0, 1}),
        (Sampling(temperature=1.0, top_k=0, top_p=1e-9, seed=3), {0}),
        (Sampling(temperature=1.0, top_k=0, min_p=0.2, seed=3), {0, 1, 2}),
        (Sampling(temperature=1.0, top_k=3, top_p=0.85, min_p=0.1, seed=3), {0, 1, 2}),
        (Sampling(temperature=1.0, top_k=5000, seed=3), {0, 1, 2, 3, 4}),
    ],
)
def test_filters_keep_the_likeliest_tokens(sampling: Sampling, allowed: set[int]) -> None:
    """top_k, top_p and min_p, alone and together, leave exactly the tokens their definitions leave."""
    assert set(draws(sampling)) == allowed


def test_processors_change_what_they_should() -> None:
    """A bias adds to its token; penalties lower the tokens seen, frequency once per time."""
    seen = [0, 0, 1]
    assert processed(Sampling(logit_bias=((2, -100.0),)), seen, [0, 0, 0, 0]) == [0, 0, -100, 0]
    assert processed(Sampling(presence_penalty=1.5), seen, [0, 0, 0, 0]) == [-1.5, -1.5, 0, 0]
    assert processed(Sampling(frequency_penalty=0.5), seen, [0, 0, 0, 0]) == [-1, -0.5, 0, 0]
    assert processed(Sampling(repeat_penalty=2.0), seen, [1, -1, 1, 1]) == [0.5, -2, 1, 1]
    assert make_processors(Sampling()) == []


def test_a_banned_token_is_never_drawn() -> None:
    """A bias of minus infinity is as good as a ban at any temperature."""
    (ban,) = make_processors(Sampling(logit_bias=((0, -math.inf),)))
    sampler = KeyedSampler(Sampling(temperature=2.0, top_k=0, seed=8), vocabulary_size=5)
    assert 0 not in draw(sampler, biased_by=ban)
