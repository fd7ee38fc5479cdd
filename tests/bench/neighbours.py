"""How much a long prompt on one model slows the stream of another. Run: `scripts/bench neighbours`.

A real service with two llama.cpp models. A client reads a long stream of one; after a while another client sends the other
model a prompt of twenty thousand tokens. The gaps between two pieces of the stream are compared: before that, and while the
prompt is being read. Not a test: it asserts nothing about time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from itertools import islice, pairwise
from pathlib import Path

from tests.support.live import LiveServer, text_of
from tests.support.llamacpp_models import copy_with_context
from tests.support.mlx_models import smollm2_gguf

RATIO_WANTED = 2.0
PROMPT_CONTEXT_LENGTH = 24_576
SENTENCE = "Rivers, lakes and mountains are three kinds of places, and many people like to see them in summer. "
SENTENCES = 1000
"""About twenty thousand tokens."""
END_TOKEN = 2
"""Of the demo model: forbidden, so that the stream is as long as the measurement."""


class LongPrompt:
    """A client with a prompt of twenty thousand tokens; `leave` breaks it off."""

    def __init__(self, server: LiveServer, name: str) -> None:
        self._server = server
        self._body = server.chat_body("reader", f"{name}. {SENTENCE * SENTENCES}", stream=True, max_tokens=1, temperature=0)
        self._leaves = threading.Event()
        self.first_text_seconds: float | None = None
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        started_at = time.perf_counter()
        with self._server.http.stream("POST", "/v1/chat/completions", json=self._body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if self._leaves.is_set():
                    return
                payload = line.removeprefix("data: ")
                if self.first_text_seconds is None and payload.startswith("{") and text_of([payload]):
                    self.first_text_seconds = time.perf_counter() - started_at

    def start(self) -> "LongPrompt":
        """Send it."""
        self._thread.start()
        return self

    def leave(self) -> None:
        """Stop with the next line, be it a keep-alive."""
        self._leaves.set()
        self._thread.join()

    def finish(self) -> float:
        """Wait for the first text; seconds since the prompt was sent."""
        self._thread.join()
        assert self.first_text_seconds is not None, "the prompt was not answered"
        return self.first_text_seconds


def gaps_of_stream(server: LiveServer, pieces: int, during: "LongPrompt") -> tuple[list[float], list[float]]:
    """The seconds between pieces of one stream: as many alone, and as many while a prompt is read."""
    stream = server.stream("writer", "Tell a long story.", temperature=0, max_tokens=3500, logit_bias={str(END_TOKEN): -100})
    times = (time.perf_counter() for payload in stream if payload != "[DONE]" and json.loads(payload)["choices"])
    alone = list(islice(times, pieces + 1))
    during.start()
    beside = list(islice(times, pieces + 1))
    assert during.first_text_seconds is None, "the prompt was read before the measurement was over"
    return [b - a for a, b in pairwise(alone)], [b - a for a, b in pairwise(beside)]


def seconds_beside_streams(server: LiveServer) -> float:
    """How long a whole prompt takes while the other model streams all the time."""
    prompt = LongPrompt(server, "Beside").start()
    while prompt.first_text_seconds is None:
        for _ in server.stream("writer", "Tell a story.", temperature=0, max_tokens=100, logit_bias={str(END_TOKEN): -100}):
            pass
    return prompt.finish()


def quantile(values: list[float], ratio: float) -> float:
    """The smallest value that `ratio` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(ratio * len(values)))]


def show(name: str, gaps: list[float]) -> None:
    """One line of milliseconds."""
    figures = [statistics.median(gaps), quantile(gaps, 0.9), quantile(gaps, 0.99), max(gaps)]
    print(f"{name:24}" + "".join(f"{1000 * figure:9.1f}" for figure in figures), flush=True)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="What a long prompt costs the stream of another model.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pieces", type=int, default=400)
    parser.add_argument("--whole", action="store_true", help="also read one prompt to its end, alone and beside a stream")
    arguments = parser.parse_args()
    alone: list[float] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        long_model = copy_with_context(smollm2_gguf(), Path(directory) / "reader.gguf", PROMPT_CONTEXT_LENGTH)
        server = LiveServer(Path(directory) / "home").start()
        try:
            server.load(
                "reader", path=str(long_model), max_context_length=PROMPT_CONTEXT_LENGTH, performance_overrides={"slots": 1}
            )
            server.load("writer", path=str(smollm2_gguf()))
            print(f"{'milliseconds':24}" + "".join(f"{title:>9}" for title in ("median", "p90", "p99", "longest")))
            for number in range(arguments.rounds):
                prompt = LongPrompt(server, f"Round {number}")
                quiet, disturbed = gaps_of_stream(server, arguments.pieces, prompt)
                prompt.leave()
                show(f"round {number}, alone", quiet)
                show(f"round {number}, beside", disturbed)
                alone += quiet
                beside += disturbed
            if arguments.whole:
                print(f"a whole prompt alone     {LongPrompt(server, 'Alone').start().finish():9.1f} s", flush=True)
                print(f"a whole prompt beside    {seconds_beside_streams(server):9.1f} s", flush=True)
        finally:
            server.stop()
    show("alone", alone)
    show("beside a prompt", beside)
    ratio = quantile(beside, 0.99) / quantile(alone, 0.99)
    verdict = "holds" if ratio <= RATIO_WANTED else "DOES NOT HOLD"
    print(f"p99 beside / alone {ratio:14.2f}     wanted at most {RATIO_WANTED}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
