"""Loading a model: the request runs beside a look at how far it is."""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from lmx_protocol import limits
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, ServerRefused
from lmx_supervisor.cli.fleet import WORKERS_PATH, parse_fleet, percent_loaded, state_text
from lmx_supervisor.cli.terminal import remark
from lmx_supervisor.core.views import WorkerView

LOAD_PATH = "/admin/models/load"


class _Watch(Protocol):
    def show(self, worker: WorkerView) -> None:
        """Tell the user where the load is."""


class _Outcome:
    """What the request in the other thread came to."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.document: Any = None
        self.failure: CommandFailure | None = None


def load_model(client: Client, order: Mapping[str, Any]) -> Any:
    """Have the server load a model, showing its progress on stderr; the server's answer when the model serves.

    The load belongs to the server: it goes on when the caller is interrupted. Raises `CommandFailure`.
    """
    outcome = _Outcome()

    def request() -> None:
        try:
            # No time limit of its own: the looks at the fleet meanwhile have one, and notice a server that is gone or stuck.
            outcome.document = client.post(LOAD_PATH, order, answer_seconds=None)
        except CommandFailure as failure:
            outcome.failure = failure
        finally:
            outcome.arrived.set()

    # A daemon: an interrupted command must not wait for the server.
    threading.Thread(target=request, name="load", daemon=True).start()
    with _watch(str(order["model_id"])) as watch:
        while not outcome.arrived.wait(limits.CLI_POLL_SECONDS):
            worker = _look(client, str(order["model_id"]))
            if worker is not None and not outcome.arrived.is_set():
                watch.show(worker)
    if outcome.failure is not None:
        raise outcome.failure
    return outcome.document


def _look(client: Client, model_id: str) -> WorkerView | None:
    try:
        return parse_fleet(client.get(WORKERS_PATH)).worker(model_id)
    except ServerRefused:  # for example shed under memory pressure, which the load itself will tell about
        return None


@contextmanager
def _watch(model_id: str) -> Iterator[_Watch]:
    if not sys.stderr.isatty():
        yield _Lines(model_id)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    look = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*look, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task(f"{model_id}: asking", total=None))


class _Lines:
    """For a log: one line whenever the state changes."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._shown = ""

    def show(self, worker: WorkerView) -> None:
        if worker.state != self._shown:
            self._shown = worker.state
            remark(f"{self._model_id}: {worker.state}")


class _Bar:
    """For a terminal: one bar."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def show(self, worker: WorkerView) -> None:
        percent = percent_loaded(worker.load_progress) if worker.load_progress else 0
        self._progress.update(self._task, description=f"{worker.model_id}: {state_text(worker)}", completed=percent, total=100)
