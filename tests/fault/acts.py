"""What the cases about workers have in common: models that speak long enough to be hit, the blow, and what the client saw."""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from tests.support.live import LiveServer, wait_until

TALKER = """
answers:
  - contains: "at length"
    pieces: ["one ", "two ", "three ", "four ", "five "]
    tokens: 60
    token_seconds: 0.02
  - pieces: ["all ", "is ", "well"]
"""
"""Sixty tokens in 1.2 seconds for whoever asks at length, three at once for everybody else."""
LONG = "tell me at length"
SHORT_ANSWER = "all is well"

NO_END_OF_DEMO_MODEL = {"0": -100, "2": -100}
"""A `logit_bias` against the tokens with which the demo model ends: a sampled answer could be over before the blow."""

CRASH_DETECTION_SECONDS = 0.05
WARM_RESTART_SECONDS = 1.5
_DEATH_SECONDS = 60.0


def talker(server: LiveServer, model_id: str = "victim", faults: str = "") -> str:
    """Load a model that talks, with these faults of the script's language; returns its id."""
    server.script(model_id, f"{TALKER}faults: [{faults}]")
    server.load(model_id)
    return model_id


def wait_for_warm_spare(server: LiveServer) -> None:
    """The spare has its libraries, so that a restart pays for the weights only."""

    def is_warm() -> bool:
        return any(spare["warm"] for spare in server.http.get("/admin/workers").json()["spares"])

    wait_until(is_warm, 30.0, "a warm spare")


def signal_worker(server: LiveServer, model_id: str, number: int = signal.SIGKILL) -> float:
    """Send a signal to a model's worker; returns the wall clock, in seconds, just before."""
    pid = server.worker(model_id)["pid"]
    began = time.time()
    os.kill(pid, number)
    return began


def stream_until(
    server: LiveServer, model_id: str, prompt: str, texts: int, blow: Callable[[], None], **fields: Any
) -> list[str]:
    """Read a stream to its end and deal the blow when `texts` pieces of text have come; returns the payloads."""
    payloads: list[str] = []
    for payload in server.stream(model_id, prompt, **fields):
        payloads.append(payload)
        if pieces_in([payload]):
            texts -= 1
            if texts == 0:
                blow()
    assert texts <= 0, f"the stream ended before the blow: {payloads}"
    return payloads


def pieces_in(payloads: list[str]) -> list[str]:
    """The pieces of text that these payloads carried."""
    return list(_pieces(payloads))


def error_code(payloads: list[str]) -> str | None:
    """The code of the error that ended a stream; None when it ended well."""
    if not payloads or payloads[-1] == "[DONE]":
        return None
    error = json.loads(payloads[-1]).get("error")
    return None if error is None else str(error["code"])


def ended_as_lost(payloads: list[str]) -> bool:
    """Whether a stream had begun, then ended with the error `worker_lost` and nothing that looks like success."""
    return bool(pieces_in(payloads)) and error_code(payloads) == "worker_lost" and "[DONE]" not in payloads


def chat_text(server: LiveServer, model_id: str, prompt: str = "hello") -> str:
    """The answer to one request, which must succeed."""
    response = server.chat(model_id, prompt)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


class Deathwatch:
    """Notes the wall clock when a process ends, as the kernel tells it: a witness beside the supervisor."""

    def __init__(self, pid: int) -> None:
        self.at_unix_seconds = 0.0
        self._descriptor = os.pidfd_open(pid)
        self._thread = threading.Thread(target=self._watch, name="deathwatch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.join()
        os.close(self._descriptor)

    def _watch(self) -> None:
        select.select([self._descriptor], [], [], _DEATH_SECONDS)
        self.at_unix_seconds = time.time()


def _pieces(payloads: list[str]) -> Iterator[str]:
    for payload in payloads:
        if payload == "[DONE]":
            continue
        for choice in json.loads(payload).get("choices", ()):
            text = choice["delta"].get("content")
            if text:
                yield text
