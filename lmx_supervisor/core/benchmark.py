"""What measured generations come to: averages, percentiles, and whether the text makes sense. Pure.

Speed is what a client sees: tokens by the time from asking to the end. Beside it stands the worker's own decode speed, which
leaves out waiting and the prompt.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

DEFAULT_PROMPT = "Explain, in a few paragraphs, how a bicycle stays upright while it is ridden."

_OUTPUT_CHARACTERS_MAX = 16 * 1024
_PREVIEW_CHARACTERS = 200
_WORDS_OF_A_REPEAT = 4
_REPETITIVE_ABOVE = 0.5
_GARBLED_ABOVE = 0.1


class BenchmarkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Generations to be measured, one after the other, after some that are not."""

    model_id: str
    prompt: str = DEFAULT_PROMPT
    max_tokens: int = 128
    temperature: float = 0.7
    runs: int = 1
    warmup_runs: int = 0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measured generation. Times count from the moment it was asked for."""

    prompt_tokens: int
    tokens: int
    cached_tokens: int
    first_token_seconds: float
    """Until the first token of the answer was there."""
    total_seconds: float
    prefill_seconds: float
    """Inside the worker, as it says."""
    decode_seconds: float
    text: str = ""
    stopped_by_itself: bool = True
    has_tool_call: bool = False

    @property
    def tokens_per_second(self) -> float:
        """As the client sees it."""
        return self.tokens / self.total_seconds if self.total_seconds > 0 else 0.0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """As the worker sees it; None where that took no time that it could tell."""
        return self.tokens / self.decode_seconds if self.decode_seconds > 0 else None

    @property
    def wait_seconds(self) -> float:
        """Before the worker began with it."""
        return max(0.0, self.first_token_seconds - self.prefill_seconds)


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a model."""

    backend: str
    samples: tuple[Sample, ...]


class BenchmarkStats(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a persisted benchmark, under the names that its readers know."""

    ttft_p50_sec: float
    ttft_p95_sec: float
    ttft_mean_sec: float
    toks_per_sec_p50: float
    toks_per_sec_p95: float
    toks_per_sec_mean: float
    decode_toks_per_sec_mean: float | None
    prompt_tokens: int
    output_tokens: int
    """Of all runs together."""
    runs_completed: int
    warmup_runs_discarded: int
    output_text: str
    """Of the last run."""
    output_token_count: int
    completed_naturally: bool
    repetition_ratio: float
    coherence_flag: Literal["ok", "truncated", "repetitive", "garbled"]
    tool_call: bool | None = None
    skills: tuple[str, ...] = ()


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True):
    """One persisted benchmark."""

    model_id: str
    backend: str
    timestamp: str
    """ISO 8601, UTC."""
    status: Literal["ok", "insufficient_data"]
    """`insufficient_data`: not every run came to its end."""
    hardware: str
    lmx_version: str
    prompt_preview: str
    stats: BenchmarkStats


def preview(prompt: str) -> str:
    """The beginning of a prompt."""
    return prompt[:_PREVIEW_CHARACTERS]


def stats_of(samples: Sequence[Sample], *, warmup_runs: int) -> BenchmarkStats:
    """The figures of at least one sample."""
    firsts = [sample.first_token_seconds for sample in samples]
    speeds = [sample.tokens_per_second for sample in samples]
    decodes = [speed for sample in samples if (speed := sample.decode_tokens_per_second) is not None]
    last = samples[-1]
    ratio = repetition_ratio(last.text)
    return BenchmarkStats(
        ttft_p50_sec=percentile(firsts, 50),
        ttft_p95_sec=percentile(firsts, 95),
        ttft_mean_sec=mean(firsts),
        toks_per_sec_p50=percentile(speeds, 50),
        toks_per_sec_p95=percentile(speeds, 95),
        toks_per_sec_mean=mean(speeds),
        decode_toks_per_sec_mean=mean(decodes) if decodes else None,
        prompt_tokens=last.prompt_tokens,
        output_tokens=sum(sample.tokens for sample in samples),
        runs_completed=len(samples),
        warmup_runs_discarded=warmup_runs,
        output_text=last.text[:_OUTPUT_CHARACTERS_MAX],
        output_token_count=last.tokens,
        completed_naturally=last.stopped_by_itself,
        repetition_ratio=ratio,
        coherence_flag=_coherence(last, ratio),
        tool_call=last.has_tool_call,
    )


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of them do not exceed: always one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def repetition_ratio(text: str) -> float:
    """Which part of the runs of four words was there before; 0 for a text that is too short to repeat itself."""
    words = text.split()
    runs = [tuple(words[at : at + _WORDS_OF_A_REPEAT]) for at in range(len(words) - _WORDS_OF_A_REPEAT + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _coherence(sample: Sample, ratio: float) -> Literal["ok", "truncated", "repetitive", "garbled"]:
    if _is_garbled(sample.text):
        return "garbled"
    if ratio > _REPETITIVE_ABOVE:
        return "repetitive"
    return "ok" if sample.stopped_by_itself else "truncated"


def _is_garbled(text: str) -> bool:
    """Whether much of it is no text: bytes that made no characters, and characters that nobody prints."""
    strange = sum(1 for each in text if each == "\N{REPLACEMENT CHARACTER}" or not (each.isprintable() or each.isspace()))
    return bool(text) and strange / len(text) > _GARBLED_ABOVE
