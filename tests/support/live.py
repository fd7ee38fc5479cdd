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

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02


@dataclass
class LiveServer:
    """A running server. `home` is its LMX_HOME; the models directory lies in it."""

    home: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "models").mkdir(exist_ok=True)
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._seen_workers: set[psutil.Process] = set()

    # --- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> "LiveServer":
        """Start the process and wait until the port listens."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LMX_")}
        environment |= {"LMX_HOME": str(self.home), **self.environment}
        self.log_path = self.home / "server.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lmx_supervisor", "serve", "--port", "0", *self.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        announced = self.home / "server.json"
        wait_until(
            lambda: announced.exists() or self.process.poll() is not None, START_SECONDS, "the server to announce itself"
        )
        assert announced.exists(), self.log()
        self.url = json.loads(announced.read_text())["url"]
        self.http = httpx.Client(base_url=self.url, timeout=120.0)
        wait_until(self._healthy, START_SECONDS, "/healthz")
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit code; none of its workers may be left."""
        assert self.process is not None
        self.remember_workers()
        self.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        self.assert_no_worker_is_left(seconds=2.0)
        return code

    def kill(self) -> None:
        """kill -9, as a crash would."""
        assert self.process is not None
        self.remember_workers()
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Close our own connections."""
        if self.url:
            self.http.close()

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
        body = {"model": model_id, "messages": [{"role": "user", "content": prompt}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def stream(self, model_id: str, prompt: str = "hello", **fields: Any) -> Iterator[str]:
        """The `data:` payloads of a streamed chat completion, as they come."""
        body = {"model": model_id, "messages": [{"role": "user", "content": prompt}], "stream": True, **fields}
        with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield line.removeprefix("data: ")

    # --- processes --------------------------------------------------------------------------------------------------------

    def remember_workers(self) -> list[psutil.Process]:
        """The worker processes there are now; they are checked to be gone after `stop`."""
        assert self.process is not None
        if self.process.poll() is None:
            self._seen_workers |= set(psutil.Process(self.process.pid).children(recursive=True))
        return sorted(self._seen_workers, key=lambda worker: worker.pid)

    def assert_no_worker_is_left(self, seconds: float) -> None:
        """Every worker ever remembered is gone within the bound."""
        wait_until(lambda: not _alive(self._seen_workers), seconds, f"workers to be gone: {_alive(self._seen_workers)}")

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
