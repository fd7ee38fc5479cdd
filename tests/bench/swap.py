"""How long the first token takes after a swap A → B → A with a shared prefix, against computing it. Run: `scripts/bench swap`.

A real service with two models. Each round clears the saved prefixes, loads A and asks it the shared prefix with a first
question (cold), swaps to B and back, and asks A the same prefix with another question (second visit). All times are taken by a
streaming HTTP client, from the request to the first piece of text. Not a test: it asserts nothing about time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.support.live import LiveServer
from tests.support.mlx_models import convert_smollm2_gguf, smollm2_gguf

RATIO_WANTED = 0.15
CONTEXT_LENGTH = 4096
SENTENCE = "Rivers, lakes and mountains are three kinds of places, and many people like to see them in summer. "
SENTENCES = 105
"""About two thousand tokens."""


def first_token_seconds(server: LiveServer, model: str, question: str) -> float:
    """From the request to the first piece of text."""
    started_at = time.perf_counter()
    first: float | None = None
    for payload in server.stream(model, SENTENCE * SENTENCES + question, temperature=0, max_tokens=2):
        delta = {} if payload == "[DONE]" else json.loads(payload)["choices"][0]["delta"]
        if first is None and delta.get("content"):
            first = time.perf_counter() - started_at
    assert first is not None, "the model said nothing"
    return first


def load_seconds(server: LiveServer, model: str, path: Path) -> float:
    """From the order until the model is served."""
    started_at = time.perf_counter()
    server.load(model, path=str(path), max_context_length=CONTEXT_LENGTH)
    return time.perf_counter() - started_at


def swap_round(server: LiveServer, path: Path) -> dict[str, float]:
    """One swap there and back; seconds by what they were spent on."""
    server.http.delete("/admin/prefix-cache").raise_for_status()
    measured = {"load, nothing saved": load_seconds(server, "a", path)}
    server.chat("a", "Hello.", max_tokens=1)
    measured["first token, cold"] = first_token_seconds(server, "a", "What is wet?")
    started_at = time.perf_counter()
    server.http.post("/admin/models/unload", json={"model_id": "a"}).raise_for_status()
    measured["unload, saving"] = time.perf_counter() - started_at
    load_seconds(server, "b", path)
    server.chat("b", "Hello.", max_tokens=1)
    server.http.post("/admin/models/unload", json={"model_id": "b"}).raise_for_status()
    measured["load, a prefix saved"] = load_seconds(server, "a", path)
    server.chat("a", "Hello.", max_tokens=1)
    measured["first token, second visit"] = first_token_seconds(server, "a", "What is high?")
    server.http.post("/admin/models/unload", json={"model_id": "a"}).raise_for_status()
    return measured


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="The first token after a swap of models.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mlx", action="store_true", help="the same model, converted, on the MLX backend")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = convert_smollm2_gguf(smollm2_gguf(), Path(directory) / "smollm2-mlx") if arguments.mlx else smollm2_gguf()
        server = LiveServer(Path(directory) / "home").start()
        try:
            rounds = [swap_round(server, path) for _ in range(arguments.rounds)]
        finally:
            server.stop()
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, seconds in medians.items():
        print(f"{name:28} {seconds:8.3f} s   " + " ".join(f"{each[name]:.3f}" for each in rounds))
    ratio = medians["first token, second visit"] / medians["first token, cold"]
    verdict = "holds" if ratio <= RATIO_WANTED else "DOES NOT HOLD"
    print(f"second visit / cold {ratio:16.3f}     wanted at most {RATIO_WANTED}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
