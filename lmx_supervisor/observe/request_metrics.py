"""What requests cost and how they end, measured where their events pass: counters, histograms, gauges over the last minutes.

Every time is taken when the event reaches the supervisor, before any client's slowness: what is measured is the service.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequestEvent,
    Cancelled,
    Failed,
    Finished,
    Prefill,
    Reasoning,
    Text,
    ToolCallPart,
    Usage,
)
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.measured import Measured, RecentOfModel, RecentRequests, RequestTotals
from lmx_supervisor.core.service import Origin
from lmx_supervisor.observe.event_names import REQUEST_COMPLETED
from lmx_supervisor.observe.labels import BoundedLabels
from lmx_supervisor.observe.per_second import LastMinute
from lmx_supervisor.observe.recent import Recent

CLIENTS_MISTAKES = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_VALUE,
        ErrorCode.NOT_SUPPORTED,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ErrorCode.MODEL_NOT_FOUND,
    }
)
"""Failures that no alert should wake anybody for."""

_DURATION_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_INTER_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_QUEUE_WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_CANCEL_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0)


class _Ending(Enum):
    ANSWERED = "answered"
    FAILED = "failed"
    NEITHER = "neither"
    """Cancelled, or refused for a mistake of the client's."""


@dataclass(slots=True)
class _RecentOfModel:
    queue_wait_seconds: Recent = field(default_factory=Recent)
    first_token_seconds: Recent = field(default_factory=Recent)
    failed_ratio: Recent = field(default_factory=Recent)
    tokens_per_second: Recent = field(default_factory=Recent)


class RequestMetrics:
    """All requests of one supervisor. A model's label is its id once `learn_model` knows it, else `other`.

    `on_completed` is told of every request that a worker had, at its end.
    """

    def __init__(
        self, registry: CollectorRegistry, on_completed: Callable[[Tell], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = now
        self.on_completed = on_completed
        self._models = BoundedLabels(limits.METRIC_MODELS_MAX)
        self._clients = BoundedLabels(limits.METRIC_CLIENTS_MAX)
        self._recent_seconds = Recent()
        self._recent_failed_ratio = Recent()
        self._ended_lately = LastMinute()
        self._recent: defaultdict[str, _RecentOfModel] = defaultdict(_RecentOfModel)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, ("model",), buckets=buckets, registry=registry)

        self._requests = counter("lmx_requests", "Requests for an answer.")
        self._errors = counter("lmx_errors", "Requests that failed through no mistake of the client's.")
        self._streams = counter("lmx_stream_requests", "Requests for a streamed answer.")
        self._prompt_tokens = counter("lmx_prompt_tokens", "Tokens of prompts, cached ones included.")
        self._cached_tokens = counter("lmx_cached_prompt_tokens", "Tokens of prompts that did not have to be computed again.")
        self._completion_tokens = counter("lmx_completion_tokens", "Tokens generated.")
        self._model_requests = counter("lmx_model_requests", "Requests for an answer, by model.", "model")
        self._model_errors = counter("lmx_model_errors", "Failed requests, by model.", "model")
        self._model_tokens = counter("lmx_model_tokens", "Tokens generated, by model.", "model")
        self._client_requests = counter("lmx_client_requests", "Requests of clients that name themselves.", "client")
        self._client_errors = counter("lmx_client_errors", "Failed requests, by client.", "client")
        self._client_tokens = counter("lmx_client_tokens", "Tokens generated, by client.", "client")
        self._refusals = counter(
            "lmx_refused_requests", "Requests that no worker ever got, by model and code.", "model", "reason"
        )
        self.durations = histogram(
            "lmx_request_duration_seconds", "From arrival to the end, of requests that were answered.", _DURATION_BUCKETS
        )
        self.first_token = histogram("lmx_time_to_first_token_seconds", "From arrival to the first text.", _FIRST_TOKEN_BUCKETS)
        self.inter_token = histogram(
            "lmx_inter_token_seconds", "Per token, from one piece of text to the next.", _INTER_TOKEN_BUCKETS
        )
        self.queue_wait = histogram(
            "lmx_queue_wait_seconds", "From arrival until a worker got the request.", _QUEUE_WAIT_BUCKETS
        )
        self.cancel_to_free = histogram(
            "lmx_cancel_to_free_seconds", "From a client's leaving to the release of its place.", _CANCEL_BUCKETS
        )
        registry.register(self)

    def learn_model(self, model_id: str) -> str:
        """The label of a model that has a slot; its counters start at zero, so that their first increase is seen."""
        if model_id in self._models:
            return model_id
        label = self._models.learn(model_id)
        for counter in (self._model_requests, self._model_errors, self._model_tokens):
            counter.labels(label)
        return label

    def watch(self, model_id: str, origin: Origin) -> "RequestWatch":
        """Count a request that arrives now; satisfies `runtime.answers.AnswerWatch`."""
        model = self._models.known(model_id)
        client = None
        if origin.client_id:
            client = self._clients.learn(origin.client_id[: limits.METRIC_CLIENT_CHARACTERS_MAX])
            self._client_requests.labels(client).inc()
        self._requests.inc()
        self._model_requests.labels(model).inc()
        if origin.stream:
            self._streams.inc()
        return RequestWatch(self, model_id, model, client, caller=origin.key_name)

    def waited(self, model: str, seconds: float) -> None:
        """A worker got a request."""
        self.queue_wait.labels(model).observe(seconds)
        self._recent[model].queue_wait_seconds.add(seconds, self.now())

    def began(self, model: str, seconds: float) -> None:
        """An answer's first text came, `seconds` after its request."""
        self.first_token.labels(model).observe(seconds)
        self._recent[model].first_token_seconds.add(seconds, self.now())

    def ended(self, model: str, client: str | None, ending: _Ending, seconds: float, usage: Usage) -> None:
        """A request is over, `seconds` after its arrival."""
        recent, now = self._recent[model], self.now()
        self._ended_lately.add(now)
        if ending is not _Ending.NEITHER:
            failed_ratio = float(ending is _Ending.FAILED)
            recent.failed_ratio.add(failed_ratio, now)
            self._recent_failed_ratio.add(failed_ratio, now)
        if ending is _Ending.ANSWERED:
            self.durations.labels(model).observe(seconds)
            self._recent_seconds.add(seconds, now)
        if ending is _Ending.FAILED:
            self._errors.inc()
            self._model_errors.labels(model).inc()
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._cached_tokens.inc(usage.cached_tokens)
        self._completion_tokens.inc(usage.completion_tokens)
        self._model_tokens.labels(model).inc(usage.completion_tokens)
        if client is not None:
            self._client_tokens.labels(client).inc(usage.completion_tokens)
            self._client_errors.labels(client).inc(float(ending is _Ending.FAILED))

    def refused(self, model: str, code: ErrorCode) -> None:
        """A request was refused before a worker got it."""
        self._refusals.labels(model, code.value).inc()

    def generated(self, model: str, tokens_per_second: float) -> None:
        """How fast one answer was decoded."""
        self._recent[model].tokens_per_second.add(tokens_per_second, self.now())

    def measured(self) -> Measured:
        """The same for readers that want one document."""
        now = self.now()
        return Measured(
            total=RequestTotals(
                requests=_count(self._requests), errors=_count(self._errors), completion_tokens=_count(self._completion_tokens)
            ),
            stream_requests=_count(self._streams),
            prompt_tokens=_count(self._prompt_tokens),
            recent=RecentRequests(
                latency_p95_seconds=_known(self._recent_seconds.percentile_95(now)),
                latency_mean_seconds=_known(self._recent_seconds.mean(now)),
                error_ratio=_known(self._recent_failed_ratio.mean(now)),
                ended_per_second=self._ended_lately.per_second(now),
            ),
            models=_totals(self._model_requests, self._model_errors, self._model_tokens),
            recent_of_models=self.recent_of_models(),
            clients=_totals(self._client_requests, self._client_errors, self._client_tokens),
        )

    def recent_of_models(self) -> dict[str, RecentOfModel]:
        """How the last minutes were, by the label of the model."""
        now = self.now()
        return {model: _recent_view(recent, now) for model, recent in self._recent.items()}

    def collect(self) -> Iterator[Metric]:
        """The gauges over the last `METRIC_WINDOW_SECONDS`; NaN where nothing happened in them."""
        now = self.now()
        latency = GaugeMetricFamily("lmx_request_latency_p95_seconds", "95 % of recent answers took no longer than this.")
        latency.add_metric((), self._recent_seconds.percentile_95(now))
        waits = GaugeMetricFamily(
            "lmx_model_queue_wait_seconds", "95 % of recent requests waited no longer.", labels=("model",)
        )
        errors = GaugeMetricFamily("lmx_model_error_rate", "Share of recent requests that failed.", labels=("model",))
        speeds = GaugeMetricFamily("lmx_model_tokens_per_second", "Mean decoding speed of recent answers.", labels=("model",))
        for model, recent in self._recent.items():
            waits.add_metric((model,), recent.queue_wait_seconds.percentile_95(now))
            errors.add_metric((model,), recent.failed_ratio.mean(now))
            speeds.add_metric((model,), recent.tokens_per_second.mean(now))
        yield from (latency, waits, errors, speeds)

    def describe(self) -> Iterator[Metric]:
        """The names in `collect`, so that the registry can refuse a second metric of the same name."""
        return self.collect()


def _values(counter: Counter) -> dict[str, int]:
    """The value of each series of a counter with one label or none, by that label."""
    # The library also has samples of when each series began, unless somebody switched them off.
    samples = (sample for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total"))
    return {next(iter(sample.labels.values()), ""): int(sample.value) for sample in samples}


def _count(counter: Counter) -> int:
    return _values(counter)[""]


def _totals(requests: Counter, errors: Counter, tokens: Counter) -> dict[str, RequestTotals]:
    errors_of, tokens_of = _values(errors), _values(tokens)
    return {
        label: RequestTotals(requests=count, errors=errors_of.get(label, 0), completion_tokens=tokens_of.get(label, 0))
        for label, count in _values(requests).items()
    }


def _recent_view(recent: _RecentOfModel, now: float) -> RecentOfModel:
    waits, first_tokens = recent.queue_wait_seconds.percentiles(now), recent.first_token_seconds.percentiles(now)
    return RecentOfModel(
        queue_wait_p50_seconds=_known(waits[0]),
        queue_wait_p95_seconds=_known(waits[1]),
        first_token_p50_seconds=_known(first_tokens[0]),
        first_token_p95_seconds=_known(first_tokens[1]),
        error_ratio=_known(recent.failed_ratio.mean(now)),
        tokens_per_second=_known(recent.tokens_per_second.mean(now)),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


class RequestWatch:
    """One request from its arrival to its end. One of these is told about every token: it keeps its own handles."""

    __slots__ = (
        "_arrived_at",
        "_cached_tokens",
        "_caller",
        "_cancelled_at",
        "_client",
        "_inter_token",
        "_leased",
        "_metrics",
        "_model",
        "_model_id",
        "_output_at",
        "_prompt_tokens",
        "_tokens",
    )  # fmt: skip

    def __init__(
        self, metrics: RequestMetrics, model_id: str, model: str, client: str | None, *, caller: str | None = None
    ) -> None:
        self._metrics = metrics
        self._model_id = model_id
        self._model = model
        self._client = client
        self._caller = caller
        self._inter_token = metrics.inter_token.labels(model)
        self._arrived_at = metrics.now()
        self._leased = False
        self._output_at: float | None = None
        self._cancelled_at: float | None = None
        self._tokens = self._prompt_tokens = self._cached_tokens = 0

    def leased(self) -> None:
        """A worker got the request; only the first time ends its wait."""
        if not self._leased:
            self._leased = True
            self._metrics.waited(self._model, self._metrics.now() - self._arrived_at)

    def cancelled(self) -> None:
        """The client left."""
        if self._cancelled_at is None:
            self._cancelled_at = self._metrics.now()

    def delivered(self, event: AnyRequestEvent) -> None:
        """Something came from the worker, or the end from the core."""
        match event:
            case Text() | Reasoning() | ToolCallPart():
                self._output(event)
            case Prefill():
                self._prompt_tokens = event.prompt_tokens
                self._cached_tokens = max(self._cached_tokens, event.cached_tokens)
            case Finished() | Failed() | Cancelled():
                self._end(event)

    def _output(self, event: Text | Reasoning | ToolCallPart) -> None:
        now = self._metrics.now()
        if self._output_at is None:
            self._metrics.began(self._model, now - self._arrived_at)
        elif event.tokens > 0:
            self._inter_token.observe((now - self._output_at) / event.tokens)
        self._output_at = now
        self._tokens += event.tokens

    def _end(self, event: Finished | Failed | Cancelled) -> None:
        now = self._metrics.now()
        if self._cancelled_at is not None:
            self._metrics.cancel_to_free.labels(self._model).observe(now - self._cancelled_at)
        if isinstance(event, Finished):
            ending, usage = _Ending.ANSWERED, event.usage
            if event.timing.decode_seconds > 0 and usage.completion_tokens > 1:
                # The first token belongs to the prompt's time.
                self._metrics.generated(self._model, (usage.completion_tokens - 1) / event.timing.decode_seconds)
        else:
            is_failure = isinstance(event, Failed) and event.code not in CLIENTS_MISTAKES
            ending = _Ending.FAILED if is_failure else _Ending.NEITHER
            if isinstance(event, Failed) and not self._leased:
                self._metrics.refused(self._model, event.code)
            usage = Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens, cached_tokens=self._cached_tokens)
        self._metrics.ended(self._model, self._client, ending, now - self._arrived_at, usage)
        if self._leased:
            self._metrics.on_completed(self._completed(event, usage, now - self._arrived_at))

    def _completed(self, end: Finished | Failed | Cancelled, usage: Usage, seconds: float) -> Tell:
        fields: dict[str, object] = {
            "request_id": end.request_id,
            "model_id": self._model_id,
            "caller": self._caller,
            "outcome": type(end).__name__.lower(),
            "code": end.code if isinstance(end, Failed) else None,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "duration_sec": round(seconds, 3),
        }
        return Tell(REQUEST_COMPLETED, fields)
