"""What requests cost and how they end, read back from the scrape."""

import math
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequestEvent, Cancelled, Failed, Finished, Prefill, Text, Timing, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.service import Origin
from lmx_supervisor.observe.request_metrics import RequestMetrics, RequestWatch


@dataclass
class Measured:
    """The metrics of one model `m`, and the clock."""

    now: float = 0.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.completed: list[Tell] = []
        self.metrics = RequestMetrics(self.registry, self.completed.append, lambda: self.now)
        self.metrics.learn_model("m")

    def value(self, name: str, **labels: str) -> float | None:
        """One sample; None when there is no such series."""
        return self.registry.get_sample_value(name, labels)

    def watch(self, model_id: str = "m", client_id: str | None = None, *, stream: bool = False) -> RequestWatch:
        """A request arrives."""
        return self.metrics.watch(model_id, Origin(client_id=client_id, stream=stream))

    def ask(self, end: AnyRequestEvent, **origin: str) -> None:
        """A request arrives and ends."""
        self.watch(**origin).delivered(end)


@pytest.fixture
def measured() -> Measured:
    """Nothing was measured yet, at second 0."""
    return Measured()


def _finished(tokens: int = 5, decode_seconds: float = 2.0) -> Finished:
    usage = Usage(prompt_tokens=10, completion_tokens=tokens, cached_tokens=4)
    return Finished(request_id="r", reason=FinishReason.STOP, usage=usage, timing=Timing(decode_seconds=decode_seconds))


def _failed(code: ErrorCode) -> Failed:
    return Failed(request_id="r", code=code, message="x")


def _text(tokens: int = 1) -> Text:
    return Text(request_id="r", text="x", tokens=tokens)


def test_an_answer_s_times_are_taken_where_they_happen(measured: Measured) -> None:
    """Wait, first token, time per token and whole duration of one request, each in its histogram."""
    watch = measured.watch()
    measured.now = 0.5
    watch.leased()
    measured.now = 2.0
    watch.delivered(_text())
    measured.now = 2.8
    watch.delivered(_text(tokens=4))
    measured.now = 3.0
    watch.delivered(_finished())
    sums = {
        name: measured.value(f"lmx_{name}_seconds_sum", model="m")
        for name in ("queue_wait", "time_to_first_token", "inter_token", "request_duration")
    }
    expected = {"queue_wait": 0.5, "time_to_first_token": 2.0, "inter_token": 0.2, "request_duration": 3.0}
    assert sums == pytest.approx(expected)
    assert measured.value("lmx_request_duration_seconds_bucket", model="m", le="5.0") == 1.0
    assert measured.value("lmx_request_duration_seconds_bucket", model="m", le="2.5") == 0.0


def test_a_replayed_request_waited_once(measured: Measured) -> None:
    """The second lease of a request whose first worker died is not another wait."""
    watch = measured.watch()
    watch.leased()
    measured.now = 9.0
    watch.leased()
    assert measured.value("lmx_queue_wait_seconds_count", model="m") == 1.0


def test_tokens_are_counted_by_model_and_client(measured: Measured) -> None:
    """The usage of an answer goes to the totals, its model and its client."""
    measured.ask(_finished(), client_id="me")
    names = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens")
    assert [measured.value(f"lmx_{name}_total") for name in names] == [10.0, 4.0, 5.0]
    assert measured.value("lmx_model_tokens_total", model="m") == 5.0
    assert measured.value("lmx_client_tokens_total", client="me") == 5.0
    assert measured.value("lmx_client_requests_total", client="me") == 1.0


def test_what_a_failed_answer_generated_is_counted_too(measured: Measured) -> None:
    """Without a usage report the events themselves say how many tokens there were."""
    watch = measured.watch()
    watch.delivered(Prefill(request_id="r", done_tokens=6, prompt_tokens=6, cached_tokens=2))
    watch.delivered(_text(tokens=3))
    watch.delivered(_failed(ErrorCode.WORKER_LOST))
    names = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens", "errors")
    assert [measured.value(f"lmx_{name}_total") for name in names] == [6.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("end", "errors", "rate"),
    [
        (_finished(), 0.0, 0.0),
        (_failed(ErrorCode.WORKER_LOST), 1.0, 1.0),
        (_failed(ErrorCode.OVERLOADED), 1.0, 1.0),
        (_failed(ErrorCode.CONTEXT_LENGTH_EXCEEDED), 0.0, math.nan),
        (_failed(ErrorCode.MODEL_NOT_FOUND), 0.0, math.nan),
        (Cancelled(request_id="r"), 0.0, math.nan),
    ],
)
def test_only_our_failures_are_errors(measured: Measured, end: AnyRequestEvent, errors: float, rate: float) -> None:
    """A client's mistake and a cancelled request are requests, but no errors, and say nothing about the error rate."""
    measured.ask(end, client_id="me")
    assert measured.value("lmx_requests_total") == 1.0
    assert measured.value("lmx_errors_total") == errors
    assert measured.value("lmx_model_errors_total", model="m") == errors
    assert measured.value("lmx_client_errors_total", client="me") == errors
    assert measured.value("lmx_model_error_rate", model="m") == pytest.approx(rate, nan_ok=True)


def test_only_answers_have_a_latency(measured: Measured) -> None:
    """A refusal in no time does not make the service look fast."""
    watch = measured.watch()
    measured.now = 4.0
    watch.delivered(_finished())
    for _ in range(100):
        measured.ask(_failed(ErrorCode.RATE_LIMIT_EXCEEDED))
    assert measured.value("lmx_request_latency_p95_seconds") == 4.0


def test_the_speed_of_a_model_is_how_fast_it_decodes(measured: Measured) -> None:
    """Tokens after the first per second of decoding, as the worker measured it, not the client's reading speed."""
    measured.ask(_finished(tokens=5, decode_seconds=2.0))
    measured.ask(_finished(tokens=1, decode_seconds=0.0))
    assert measured.value("lmx_model_tokens_per_second", model="m") == 2.0


def test_the_release_of_a_place_is_timed_from_the_first_cancel(measured: Measured) -> None:
    """From the client's leaving to the end, however often it is said that it left."""
    watch = measured.watch()
    watch.cancelled()
    measured.now = 1.5
    watch.cancelled()
    measured.now = 2.0
    watch.delivered(Cancelled(request_id="r"))
    assert measured.value("lmx_cancel_to_free_seconds_sum", model="m") == 2.0


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (_finished(), {"outcome": "finished", "code": None, "prompt_tokens": 10, "completion_tokens": 5}),
        (_failed(ErrorCode.WORKER_LOST), {"outcome": "failed", "code": "worker_lost", "prompt_tokens": 0}),
        (Cancelled(request_id="r"), {"outcome": "cancelled", "code": None}),
    ],
)
def test_the_end_of_a_request_is_told(measured: Measured, end: AnyRequestEvent, told: dict[str, object]) -> None:
    """A request that a worker had is told with how it ended, what it used and how long it took."""
    watch = measured.watch()
    watch.leased()
    measured.now = 1.5
    watch.delivered(end)
    [tell] = measured.completed
    expected = {"request_id": "r", "model_id": "m", "duration_sec": 1.5, **told}
    assert tell.fields | expected == tell.fields


@pytest.mark.parametrize(("key_name", "client_id"), [("alice", "alice"), (None, "somebody")])
def test_the_end_of_a_request_says_whose_key_it_came_with(
    measured: Measured, key_name: str | None, client_id: str | None
) -> None:
    """By the key's name; what a client calls itself without one is no name of a key."""
    watch = measured.metrics.watch("m", Origin(client_id=client_id, key_name=key_name))
    watch.leased()
    watch.delivered(_finished())

    assert key_name == measured.completed[0].fields["caller"]


def test_a_refusal_is_no_completed_request(measured: Measured) -> None:
    """Requests that no worker ever had cannot push what matters out of the event log."""
    measured.ask(_failed(ErrorCode.MODEL_NOT_FOUND))
    assert measured.completed == []


def test_streams_are_counted(measured: Measured) -> None:
    """A streamed request is a request and a stream."""
    measured.watch(stream=True)
    measured.watch()
    assert (measured.value("lmx_requests_total"), measured.value("lmx_stream_requests_total")) == (2.0, 1.0)


def test_models_nobody_has_make_no_series(measured: Measured) -> None:
    """Whatever clients ask for, an id without a slot counts under one label."""
    for number in range(5):
        measured.ask(_failed(ErrorCode.MODEL_NOT_FOUND), model_id=f"x{number}")
    assert measured.value("lmx_model_requests_total", model="other") == 5.0
    assert measured.value("lmx_model_requests_total", model="x1") is None


def test_a_model_s_counters_begin_at_zero(measured: Measured) -> None:
    """A rule on an increase sees the first one, because the series was there before it."""
    assert measured.value("lmx_model_errors_total", model="m") == 0.0


def test_clients_are_bounded_in_number_and_length(measured: Measured) -> None:
    """The first clients have series of their own, cut to a length; the others share one."""
    measured.ask(_finished(), client_id="n" * 10_000)
    for number in range(limits.METRIC_CLIENTS_MAX):
        measured.ask(_finished(), client_id=f"c{number}")
    assert measured.value("lmx_client_requests_total", client="n" * limits.METRIC_CLIENT_CHARACTERS_MAX) == 1.0
    assert measured.value("lmx_client_requests_total", client="other") == 1.0


def test_one_document_says_what_the_scrape_says(measured: Measured) -> None:
    """Counts since the start by model and client, and the last minutes; None where nothing happened in them."""
    nothing = measured.metrics.measured()
    watch = measured.watch(client_id="me", stream=True)
    measured.now = 0.5
    watch.leased()
    measured.now = 0.75
    watch.delivered(_text())
    measured.now = 1.0
    watch.delivered(_finished(tokens=5, decode_seconds=2.0))
    measured.ask(_failed(ErrorCode.WORKER_LOST))
    said = measured.metrics.measured()

    assert (None, None, None) == (
        nothing.recent.latency_p95_seconds,
        nothing.recent.error_ratio,
        nothing.recent_of_models.get("m"),
    )
    assert (2, 1, 5, 1, 10) == (
        said.total.requests,
        said.total.errors,
        said.total.completion_tokens,
        said.stream_requests,
        said.prompt_tokens,
    )
    assert (1.0, 1.0, 0.5, 2 / 60) == (
        said.recent.latency_p95_seconds,
        said.recent.latency_mean_seconds,
        said.recent.error_ratio,
        said.recent.ended_per_second,
    )
    assert (2, 1, 5) == (said.models["m"].requests, said.models["m"].errors, said.models["m"].completion_tokens)
    assert (0.5, 0.5, 2.0) == (
        said.recent_of_models["m"].queue_wait_p95_seconds,
        said.recent_of_models["m"].error_ratio,
        said.recent_of_models["m"].tokens_per_second,
    )
    assert said.recent_of_models == measured.metrics.recent_of_models()
    assert (0.75, 0.75, 0.5) == (
        said.recent_of_models["m"].first_token_p50_seconds,
        said.recent_of_models["m"].first_token_p95_seconds,
        said.recent_of_models["m"].queue_wait_p50_seconds,
    )
    assert (1, 0, 5) == (said.clients["me"].requests, said.clients["me"].errors, said.clients["me"].completion_tokens)
