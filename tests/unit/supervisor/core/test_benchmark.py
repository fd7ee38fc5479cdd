"""What measured generations come to."""

from typing import Any

import pytest

from lmx_supervisor.core.benchmark import Sample, percentile, repetition_ratio, stats_of


def sample(**fields: Any) -> Sample:
    """Ten tokens in two seconds, the first after half of one."""
    given: dict[str, Any] = {
        "prompt_tokens": 5,
        "tokens": 10,
        "cached_tokens": 0,
        "first_token_seconds": 0.5,
        "total_seconds": 2.0,
        "prefill_seconds": 0.3,
        "decode_seconds": 1.0,
        "text": "The wheels keep their plane.",
    }
    return Sample(**{**given, **fields})


def test_speed_is_what_the_client_sees_and_beside_it_what_the_worker_says() -> None:
    """Waiting and the prompt count for the one and not for the other; what took no time has no speed."""
    assert (sample().tokens_per_second, sample().decode_tokens_per_second) == (5.0, 10.0)
    assert sample().wait_seconds == pytest.approx(0.2)
    assert sample(decode_seconds=0.0).decode_tokens_per_second is None
    assert (sample(total_seconds=0.0).tokens_per_second, sample(prefill_seconds=9.0).wait_seconds) == (0.0, 0.0)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 2), (51, 3), (75, 3), (95, 4), (100, 4)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    """The least that so many do not exceed."""
    assert percentile([4, 1, 3, 2], percent) == value


def test_statistics_of_several_runs() -> None:
    """Percentiles over all, the text of the last, tokens of all together."""
    stats = stats_of([sample(), sample(first_token_seconds=1.5, total_seconds=4.0, text="Last.")], warmup_runs=1)

    assert (stats.ttft_p50_sec, stats.ttft_p95_sec, stats.ttft_mean_sec) == (0.5, 1.5, 1.0)
    assert (stats.toks_per_sec_p50, stats.toks_per_sec_p95, stats.toks_per_sec_mean) == (2.5, 5.0, 3.75)
    assert (stats.runs_completed, stats.warmup_runs_discarded, stats.output_tokens) == (2, 1, 20)
    assert (stats.output_text, stats.output_token_count, stats.tool_call) == ("Last.", 10, False)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({}, "ok"),
        ({"stopped_by_itself": False}, "truncated"),
        ({"text": "on and on and " * 20, "stopped_by_itself": False}, "repetitive"),
        ({"text": "\N{REPLACEMENT CHARACTER}\x01 b"}, "garbled"),
        ({"text": ""}, "ok"),
    ],
)
def test_whether_a_text_makes_sense(fields: dict[str, Any], flag: str) -> None:
    """The worst that can be said of it."""
    assert stats_of([sample(**fields)], warmup_runs=0).coherence_flag == flag


def test_repetition_is_what_was_there_before() -> None:
    """Runs of four words; a text that is shorter repeats nothing."""
    assert repetition_ratio("a b c") == 0.0
    assert repetition_ratio("a b c d e f") == 0.0
    assert repetition_ratio("a b c d a b c d") == pytest.approx(1 / 5)
