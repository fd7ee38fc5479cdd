"""How fast the llama.cpp backend decodes, against llama-cpp-python's own high-level loop. Run: `python -m tests.bench.smoke`.

Three measurements take turns in rounds of one process, so that whatever else the machine does hits all of them alike; the table
shows medians. Only decoding is measured: the clock starts when every stream has its first token. Not a test: it asserts nothing
about time, and exits 0 unless something fails to run.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import llama_cpp
import llama_cpp.llama_cpp as api

from lmx_protocol.messages import GenerateRequest, Message, ModelSpec, Sampling
from lmx_protocol.states import ModelFormat
from lmx_worker.backends.base import TextDelta
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from tests.support.mlx_models import smollm2_gguf

STREAMS = 8
CONTEXT_LENGTH = 4096
SINGLE_RATIO_WANTED = 0.9
STREAMS_RATIO_WANTED = 1.25
HIGH_LEVEL, SINGLE, TOGETHER = "llama-cpp-python Llama, 1 stream", "LMX, 1 stream", f"LMX, {STREAMS} streams"


def prompt_messages(number: int) -> tuple[Message, ...]:
    """A question whose answer is long, different for every stream."""
    return (Message(role="user", content=f"Write a long and detailed story about {number + 2} friends on an island."),)


@contextmanager
def same_kernels() -> Iterator[None]:
    """Have the high-level object load with the kernels the backend uses where ggml would choose AMX (see `weights`)."""
    defaults = api.llama_model_default_params

    def adjusted() -> api.llama_model_params:
        params = defaults()
        params.use_extra_bufts = b"AMX_INT8 = 1" not in api.llama_print_system_info()
        return params

    api.llama_model_default_params = adjusted
    try:
        yield
    finally:
        api.llama_model_default_params = defaults


def measure_high_level(model: llama_cpp.Llama, tokens: list[int], decoded_tokens: int) -> float:
    """Tokens per second of the high-level token loop, text included, greedy."""
    stream = model.generate(tokens, temp=0.0)
    model.detokenize([next(stream)])
    started_at = time.perf_counter()
    for _ in range(decoded_tokens):
        model.detokenize([next(stream)])
    return decoded_tokens / (time.perf_counter() - started_at)


def measure_backend(backend: LlamaCppBackend, streams: int, decoded_tokens: int) -> float:
    """Tokens per second of all streams together, greedy, through `step` as the engine calls it."""
    started: set[str] = set()
    for number in range(streams):
        request = GenerateRequest(
            request_id=f"bench-{number}",
            model_id="demo",
            messages=prompt_messages(number),
            sampling=Sampling(temperature=0),
        )
        backend.insert(backend.prepare(request))
    while len(started) < streams:
        started.update(delta.request_id for delta in backend.step() if isinstance(delta, TextDelta))
    started_at = time.perf_counter()
    produced = sum(delta.tokens for _ in range(decoded_tokens) for delta in backend.step() if isinstance(delta, TextDelta))
    seconds = time.perf_counter() - started_at
    for number in range(streams):
        backend.remove(f"bench-{number}")
    assert produced == streams * decoded_tokens, "an answer ended before the measurement did"
    return produced / seconds


def run(rounds: int, decoded_tokens: int, threads: int) -> dict[str, list[float]]:
    """Measure all three in turn, `rounds` times after one that is not counted; tokens per second by name."""
    path = smollm2_gguf()
    backend = LlamaCppBackend()
    backend.load(
        ModelSpec(
            model_id="demo",
            path=str(path),
            format=ModelFormat.GGUF,
            context_length=CONTEXT_LENGTH,
            slots=STREAMS,
            threads=threads,
        ),
        lambda *_: None,
    )
    with same_kernels():
        high_level = llama_cpp.Llama(str(path), n_ctx=CONTEXT_LENGTH, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = backend.prepare(GenerateRequest(request_id="prompt", model_id="demo", messages=prompt_messages(0)))
    measurements: dict[str, Callable[[], float]] = {
        HIGH_LEVEL: lambda: measure_high_level(high_level, list(prompt.tokens), decoded_tokens),
        SINGLE: lambda: measure_backend(backend, 1, decoded_tokens),
        TOGETHER: lambda: measure_backend(backend, STREAMS, decoded_tokens),
    }
    rates: dict[str, list[float]] = {name: [] for name in measurements}
    for round_number in range(rounds + 1):
        for name, measure in measurements.items():
            rate = measure()
            if round_number > 0:
                rates[name].append(rate)
    high_level.close()
    backend.close()
    return rates


def summarize(rates: dict[str, list[float]], threads: int) -> dict[str, object]:
    """Medians, the two ratios, and whether they are what we want."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    single_ratio = medians[SINGLE] / medians[HIGH_LEVEL]
    streams_ratio = medians[TOGETHER] / medians[SINGLE]
    return {
        "threads": threads,
        "tokens_per_second": {name: round(rate, 1) for name, rate in medians.items()},
        "rounds": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "single_ratio": round(single_ratio, 3),
        "single_ratio_holds": single_ratio >= SINGLE_RATIO_WANTED,
        "streams_ratio": round(streams_ratio, 3),
        "streams_ratio_holds": streams_ratio >= STREAMS_RATIO_WANTED,
    }


def print_table(summary: dict[str, object], rates: dict[str, list[float]]) -> None:
    """The same for people."""
    print(f"{'decode, ' + str(summary['threads']) + ' threads':36} {'median tok/s':>12}   rounds")
    for name, values in rates.items():
        print(f"{name:36} {statistics.median(values):12.1f}   {' '.join(f'{value:.1f}' for value in values)}")
    for label, key, wanted in (
        ("LMX 1 stream / high-level loop", "single_ratio", SINGLE_RATIO_WANTED),
        (f"LMX {STREAMS} streams / 1 stream", "streams_ratio", STREAMS_RATIO_WANTED),
    ):
        verdict = "holds" if summary[f"{key}_holds"] else "DOES NOT HOLD"
        print(f"{label:36} {summary[key]:12.2f}   wanted at least {wanted}: {verdict}")


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Decode speed of the llama.cpp backend on the demo model.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="decoded tokens per stream and round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rates = run(arguments.rounds, arguments.tokens, arguments.threads)
    summary = summarize(rates, arguments.threads)
    if arguments.json:
        print(json.dumps(summary))
    else:
        print_table(summary, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
