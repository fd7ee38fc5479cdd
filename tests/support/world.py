"""The world of a fault case: its servers, its measurements, a bystander that must not notice, the crashes it means to cause.

After the case `close` has every universal rule checked on every server (`checker`). Does not cover the report: measurements go
to the function given as `record`.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.checker import broken_rules
from tests.support.live import SAFE_KEEP_ALIVE, LiveServer, text_of

PROMPT_CANARY = "heliotrope"
"""Every prompt of a fault case carries this word; nothing LMX writes to disk may."""

_BYSTANDER = """
answers:
  - pieces: ["the ", "quiet ", "neighbour ", "counts ", "on "]
    tokens: 40
    token_seconds: 0.02
"""
_FIRST_WORDS_SECONDS = 30.0
_LAST_STREAM_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """A figure a case proves; `bound` is what it must not exceed."""

    name: str
    value: float
    unit: str
    bound: float | None


class World:
    """Everything a fault case plays with."""

    def __init__(self, directory: Path, record: Callable[[Measurement], None]) -> None:
        self._directory = directory
        self._record = record
        self.servers: list[LiveServer] = []

    @property
    def server(self) -> LiveServer:
        """The server started last."""
        return self.servers[-1]

    def prepare(self, *arguments: str, home: str = "home", **environment: Any) -> LiveServer:
        """A server that is not started yet: for scripts and files that must be there before it is."""
        values = {name: str(value) for name, value in environment.items()}
        server = LiveServer(self._directory / home, arguments, values, prompt_canary=PROMPT_CANARY)
        self.servers.append(server)
        return server

    def serve(self, *arguments: str, home: str = "home", **environment: Any) -> LiveServer:
        """Start a server with these command line arguments and environment variables; several servers need several homes."""
        return self.prepare(*arguments, home=home, **environment).start()

    def measure(self, name: str, value: float, unit: str, bound: float | None = None) -> None:
        """Write a figure into the report. Raises `AssertionError` when it is over its bound."""
        self._record(Measurement(name, value, unit, bound))
        assert bound is None or value <= bound, f"{name}: {value:.3f} {unit}, more than {bound} {unit}"

    def expect_crash(self, reason: str, count: int | None = 1, server: LiveServer | None = None) -> None:
        """Say that workers will die for this reason: so often, or at least once (None)."""
        (server or self.server).expected_crashes.append((reason, count))

    @contextlib.contextmanager
    def bystander(self, server: LiveServer | None = None) -> "Iterator[Bystander]":
        """A healthy model streams steadily meanwhile; afterwards its every text must equal that of an undisturbed run (U3)."""
        bystander = Bystander(server or self.server)
        bystander.start()
        try:
            yield bystander
        finally:
            bystander.stop()
        bystander.check()

    def close(self) -> None:
        """Check the universal rules and stop what runs. Raises `AssertionError` with every broken rule."""
        broken: list[str] = []
        try:
            for server in self.servers:
                broken.extend(f"{server.home.name}: {text}" for text in broken_rules(server))
        finally:
            for server in self.servers:
                server.abandon()
        assert not broken, "universal rules broken:\n" + "\n".join(f"  {text}" for text in broken)


class Bystander:
    """One stream after the other from a healthy model, on a thread and a connection of its own."""

    MODEL = "bystander"

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._speaking = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="bystander")
        self._answers: list[list[str]] = []
        self._error: BaseException | None = None
        self._undisturbed = ""

    @property
    def streams(self) -> int:
        """How many streams came to their end."""
        return len(self._answers)

    def start(self) -> None:
        """Load the model, hear it once undisturbed, and go on listening in the background."""
        self._server.script(self.MODEL, _BYSTANDER)
        self._server.load(self.MODEL)
        self._undisturbed = text_of(list(self._server.stream(self.MODEL)))
        self._thread.start()
        assert self._speaking.wait(_FIRST_WORDS_SECONDS), "the bystander did not begin to speak"

    def stop(self) -> None:
        """Hear the running stream to its end."""
        self._stop.set()
        self._thread.join(_LAST_STREAM_SECONDS)

    def check(self) -> None:
        """Raises `AssertionError` when anything but the undisturbed text was heard."""
        assert not self._thread.is_alive(), "U3: the bystander's stream does not end"
        assert self._error is None, f"U3: the bystander lost its stream: {self._error!r}"
        for number, payloads in enumerate(self._answers):
            assert payloads[-1:] == ["[DONE]"], f"U3: the bystander's stream {number} ended with {payloads[-1:]}"
            heard = text_of(payloads)
            assert heard == self._undisturbed, f"U3: the bystander's stream {number} said {heard!r}, not {self._undisturbed!r}"

    def _listen(self) -> None:
        try:
            with httpx.Client(base_url=self._server.url, timeout=_LAST_STREAM_SECONDS, limits=SAFE_KEEP_ALIVE) as http:
                while not self._stop.is_set():
                    payloads: list[str] = []
                    for payload in self._server.stream(self.MODEL, http=http):
                        payloads.append(payload)
                        self._speaking.set()
                    self._answers.append(payloads)
        except (httpx.HTTPError, AssertionError) as error:
            self._error = error
