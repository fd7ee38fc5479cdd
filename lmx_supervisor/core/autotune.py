"""Which settings suit a model best: the candidates, what their measurements come to, and who wins. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import BackendName
from lmx_supervisor.config.schema import ModelsConfig
from lmx_supervisor.core.benchmark import DEFAULT_PROMPT, Sample, mean
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile

_TTFT_WEIGHT_PER_MILLISECOND = 0.015
_ERROR_WEIGHT = 50.0
_SLOTS_MAX = 64
_LONG_CHUNK_TOKENS = 512


class TuneOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A model to find settings for."""

    model_id: str
    prompt: str = DEFAULT_PROMPT
    max_tokens: int = 128
    temperature: float = 0.7
    runs: int = 1
    concurrency: int | None = None
    """Generations at one time; None: as many as a model has slots by default."""
    profiles: tuple[LoadProfile, ...] = ()
    """The candidates; none: sensible ones."""
    allow_unsupported_runtime: bool = False
    """Try even a quarantined model."""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one candidate, under the names that its readers know."""

    avg_tokens_per_second: float = 0.0
    """Of all generations at one time together."""
    avg_ttft_ms: float = 0.0
    avg_total_ms: float = 0.0
    error_rate: float = 1.0
    queue_wait_ms: float = 0.0


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One set of settings, and how it did."""

    profile: LoadProfile
    metrics: Metrics
    error: str | None = None
    """Why it failed, wholly or in part."""
    code: ErrorCode | None = None
    """Of the load, if that failed."""

    @property
    def score(self) -> float:
        """The higher, the better."""
        metrics = self.metrics
        latency = _TTFT_WEIGHT_PER_MILLISECOND * metrics.avg_ttft_ms
        return metrics.avg_tokens_per_second - latency - _ERROR_WEIGHT * metrics.error_rate


class TunedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The best settings found for a model on a version of a backend; `ts` in unix seconds."""

    ts: float
    model_id: str
    backend: str
    backend_version: str
    profile: dict[str, Any]
    """As `load_profile.settings_of` gives it."""
    metrics: Metrics
    score: float


class TuneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an autotune came to."""

    record: TunedRecord
    candidates: tuple[Candidate, ...]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Generations that ran at one time."""

    samples: tuple[Sample, ...]
    seconds: float
    """Until the last of them had ended."""
    failures: int = 0


def metrics_of(rounds: Sequence[Round]) -> Metrics:
    """What the rounds of one candidate come to."""
    samples = [sample for each in rounds for sample in each.samples]
    failures = sum(each.failures for each in rounds)
    if not samples:
        return Metrics()
    seconds = sum(each.seconds for each in rounds)
    return Metrics(
        avg_tokens_per_second=sum(sample.tokens for sample in samples) / seconds if seconds > 0 else 0.0,
        avg_ttft_ms=1000 * mean([sample.first_token_seconds for sample in samples]),
        avg_total_ms=1000 * mean([sample.total_seconds for sample in samples]),
        error_rate=failures / (failures + len(samples)),
        queue_wait_ms=1000 * mean([sample.wait_seconds for sample in samples]),
    )


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The winner among those that answered at all: by score, then the shorter answer, then the shorter wait."""
    fit = [candidate for candidate in candidates if candidate.metrics.error_rate < 1]
    return max(fit, key=lambda each: (each.score, -each.metrics.avg_total_ms, -each.metrics.queue_wait_ms), default=None)


def default_candidates(backend: str, models: ModelsConfig, cores: int) -> tuple[LoadProfile, ...]:
    """The configuration as it is, and what is most often worth a try."""
    more_slots = min(2 * models.slots, _SLOTS_MAX)
    longer_chunk = max(_LONG_CHUNK_TOKENS, models.prefill_chunk_tokens)
    found = [
        NOTHING,
        LoadProfile(slots=more_slots),
        LoadProfile(prefill_chunk_tokens=longer_chunk),
        LoadProfile(slots=more_slots, prefill_chunk_tokens=longer_chunk),
    ]
    if backend == BackendName.LLAMACPP and cores > 2:
        # Memory feeds few cores: half of them are often as fast, and leave room for others.
        found.append(LoadProfile(threads=cores // 2))
    return tuple(found)
