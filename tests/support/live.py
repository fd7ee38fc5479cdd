"""A real LMX for a test: its own process, home and port; stopped, and checked to have left nothing, at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from lmx_protocol import limits
from tests.support.holdings import descriptor_kinds, thread_count
from tests.support.orphans import adopt_orphans, adopted_orphans

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
SAFE_KEEP_ALIVE = httpx.Limits(keepalive_expiry=limits.KEEP_ALIVE_SECONDS / 2)
"""A connection is not used again just when the server closes it for idleness: by default both wait equally long."""
_our_servers: set[int] = set()


@dataclass
class LiveServer:
    """A running server. `home` is its LMX_HOME; the models directory lies in it."""

    home: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    prompt_canary: str = ""
    """Goes into every prompt, as a system message; what LMX writes to disk is searched for it."""
    command: tuple[str, ...] = ()
    """Stands before the server's own command line, to start it under other conditions (`prlimit --nofile=64`, for example)."""
    own_session: bool = False
    """Start it as the leader of a session of its own, as a terminal would."""

    # --- what a test says about the fault it injects; read by the checker ----------------------------------------------------

    expected_crashes: list[tuple[str, int | None]] = field(default_factory=list)
    """Reason and number of worker deaths that leave a crash bundle."""
    may_crash_anyhow: bool = False
    """Workers die at random: reasons and numbers of crash bundles are not known beforehand."""
    tolerated_lag_seconds: float = 0.0
    """How long the test itself kept the supervisor's loop from turning."""
    may_leave_unfinished_files: bool = False
    """The fault keeps files from being finished and removed; the next start does that."""
    tolerated_log_lines: list[str] = field(default_factory=list)
    """Words that excuse a traceback in the log: the test provoked it."""
    expects_no_loads: bool = False
    """The fault lasts: nothing can be loaded afterwards."""
    may_end: bool = False
    """The supervisor ends in this test, otherwise than by our `stop` or `kill`."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "models").mkdir(exist_ok=True)
        self.log_path = self.home / "server.log"
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.was_killed = False
        self.run_dir: Path | None = None
        self.streams_read: list[list[str]] = []
        """The payloads of every stream that was read to its end."""
        self._seen_workers: set[psutil.Process] = set()

    # --- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> "LiveServer":
        """Start the process and wait until the port listens."""
        adopt_orphans()
        self.close()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LMX_")}
        # Whatever this machine's user has downloaded is no business of a test.
        environment |= {"LMX_HOME": str(self.home), "HF_HOME": str(self.home / "huggingface"), **self.environment}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, sys.executable, "-m", "lmx_supervisor", "serve", "--port", "0", *self.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self.own_session,
            )
        _our_servers.add(self.process.pid)
        wait_until(lambda: bool(self._announced()) or self._ended(), START_SECONDS, "the server to announce itself")
        assert self._announced(), self.log()
        self.url = self._announced()
        self.http = httpx.Client(base_url=self.url, timeout=120.0, limits=SAFE_KEEP_ALIVE)
        wait_until(self._healthy, START_SECONDS, "/healthz")
        self.was_killed = False
        self.descriptors_at_start = descriptor_kinds(self.process.pid)
        self.threads_at_start = thread_count(self.process.pid)
        self.run_dir = next((Path(kind).parent for kind in self.descriptors_at_start if kind.endswith("/owner.lock")), None)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit code; none of its workers may be left."""
        code = self.terminate(number)
        self.assert_no_worker_is_left(seconds=2.0)
        return code

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit code."""
        assert self.process is not None
        self.remember_workers()
        self.close()
        self.may_end = True
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """kill -9, as a crash would."""
        assert self.process is not None
        self.remember_workers()
        self.may_end = self.was_killed = True
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def abandon(self) -> None:
        """Whatever state it is in: end it and close what is ours."""
        self.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def close(self) -> None:
        """Close our own connections."""
        if self.url:
            self.http.close()

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What the server wrote."""
        return self.log_path.read_text(errors="replace")

    # --- models -----------------------------------------------------------------------------------------------------------

    def script(self, model_id: str, text: str = "{}") -> str:
        """Put a scripted model into the models directory; returns its id."""
        (self.home / "models" / f"{model_id}.script.yaml").write_text(text)
        return model_id

    def load(self, model_id: str, **order: Any) -> dict[str, Any]:
        """Load a model and return the answer; it must succeed."""
        response = self.http.post("/admin/models/load", json={"model_id": model_id, **order})
        assert response.status_code == 200, response.text
        return response.json()

    def worker(self, model_id: str) -> dict[str, Any]:
        """The slot of a model as GET /admin/workers shows it; empty when there is none."""
        workers = self.http.get("/admin/workers").json()["workers"]
        return next((worker for worker in workers if worker["model_id"] == model_id), {})

    def wait_for_state(self, model_id: str, *states: str, seconds: float = 30.0) -> dict[str, Any]:
        """Wait until a model's slot is in one of these states."""
        wait_until(lambda: self.worker(model_id).get("state") in states, seconds, f"{model_id} to be {' or '.join(states)}")
        return self.worker(model_id)

    # --- asking -----------------------------------------------------------------------------------------------------------

    def chat(self, model_id: str, prompt: str = "hello", **fields: Any) -> httpx.Response:
        """One chat completion, not streamed."""
        return self.http.post("/v1/chat/completions", json=self.chat_body(model_id, prompt, **fields))

    def stream(self, model_id: str, prompt: str = "hello", *, http: httpx.Client | None = None, **fields: Any) -> Iterator[str]:
        """The `data:` payloads of a streamed chat completion, as they come, over our connections or those of `http`."""
        payloads: list[str] = []
        body = self.chat_body(model_id, prompt, stream=True, **fields)
        with (http or self.http).stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    payloads.append(line.removeprefix("data: "))
                    yield payloads[-1]
        self.streams_read.append(payloads)

    def chat_body(self, model_id: str, prompt: str, **fields: Any) -> dict[str, Any]:
        """The body of a chat completion of one user message."""
        canary = [{"role": "system", "content": self.prompt_canary}] if self.prompt_canary else []
        return {"model": model_id, "messages": [*canary, {"role": "user", "content": prompt}], **fields}

    # --- processes --------------------------------------------------------------------------------------------------------

    def remember_workers(self) -> list[psutil.Process]:
        """The worker processes there are now; they are checked to be gone after `stop`."""
        self._seen_workers |= set(self.children())
        return sorted(self._seen_workers, key=lambda worker: worker.pid)

    def children(self) -> list[psutil.Process]:
        """Its living descendants; none when it has ended."""
        if self.process is None or self.process.poll() is not None:
            return []
        return _alive(set(psutil.Process(self.process.pid).children(recursive=True)))

    def assert_no_worker_is_left(self, seconds: float) -> None:
        """Every worker ever remembered is gone within the bound, and nothing it started has been left to us."""

        def left() -> list[psutil.Process]:
            return _alive(self._seen_workers | set(adopted_orphans(frozenset(_our_servers))))

        try:
            wait_until(lambda: not left(), seconds, "workers to be gone")
        except AssertionError as error:
            raise AssertionError(f"{error}: {left()}") from None

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _announced(self) -> str:
        """The address this very process has announced; one that was killed leaves its own behind."""
        try:
            announced = json.loads((self.home / "server.json").read_text())
        except FileNotFoundError:
            return ""
        return str(announced["url"]) if announced["pid"] == self.pid else ""

    def _healthy(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False


def text_of(payloads: list[str]) -> str:
    """The text that a stream's payloads carried."""
    chunks = (json.loads(payload) for payload in payloads if payload != "[DONE]")
    choices = (choice for chunk in chunks for choice in chunk.get("choices", ()))
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Look often until it is true; fails after the bound."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)


def _alive(processes: set[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive
