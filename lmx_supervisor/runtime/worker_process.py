"""One worker process with everything of ours that belongs to it: pipes, link, exit watch, crash file."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from lmx_protocol import limits
from lmx_protocol.messages import BootSpec, FromWorker, Load, Loaded, ToWorker
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.core.actions import WorkerSignal
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.runtime.exit_watcher import watch_exit
from lmx_supervisor.runtime.link import KeyPair, Link
from lmx_supervisor.runtime.model_files import Looks
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.spawner import Spawned, spawn_worker
from lmx_supervisor.runtime.stderr_ring import OutputRing
from lmx_supervisor.runtime.witness import Witness
from lmx_supervisor.runtime.worker_outputs import WorkerOutputs

_SIGNALS = {
    WorkerSignal.TERMINATE: signal.SIGTERM,
    WorkerSignal.ABORT: signal.SIGABRT,
    WorkerSignal.KILL: signal.SIGKILL,
}
_CRASH_HEAD_CHARACTERS = limits.STDERR_TAIL_BYTES


@dataclass(frozen=True, slots=True)
class WorkerTiming:
    """The worker's own clockwork, from the configuration; and where it may leave what it computed."""

    beat_interval_seconds: float
    c_watchdog_seconds: float
    prefix_directory_of: Callable[[str], str] = lambda _: ""
    """A directory by model id; empty: it may not."""


class WorkerProcess:
    """From spawn to reaping. Callbacks run on the loop; `on_exit` is the last one."""

    def __init__(
        self,
        incarnation: str,
        backend: str,
        *,
        context: "zmq.asyncio.Context",
        run_dir: RunDir,
        own_keys: KeyPair,
        timing: WorkerTiming,
        witness: Witness,
        outputs: WorkerOutputs,
        on_message: Callable[[FromWorker], None],
        on_violation: Callable[[str], None],
        on_files_changed: Callable[[str], None],
        on_exit: Callable[[ExitObservation], None],
    ) -> None:
        """Start the process. Raises `OSError` when the system cannot."""
        loop = asyncio.get_running_loop()
        worker_keys = KeyPair.fresh()
        endpoint = run_dir.endpoint(incarnation)
        spec = BootSpec(
            protocol=PROTOCOL_VERSION,
            incarnation=incarnation,
            endpoint=endpoint,
            backend=backend,
            server_public_key=worker_keys.public,
            server_secret_key=worker_keys.secret,
            client_public_key=own_keys.public,
            supervisor_pid=os.getpid(),
            beat_interval_seconds=timing.beat_interval_seconds,
            c_watchdog_seconds=timing.c_watchdog_seconds,
        )
        self._incarnation = incarnation
        self._run_dir = run_dir
        self._on_message = on_message
        self._on_files_changed = on_files_changed
        self._on_exit = on_exit
        self._witness = witness
        self._outputs = outputs
        self._prefix_directory_of = timing.prefix_directory_of
        self._files_at_load: asyncio.Task[Looks] | None = None
        self._comparing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # The link first: with the process there is one thing less that can fail.
        try:
            self._link = Link(
                context,
                endpoint,
                own_keys=own_keys,
                worker_public_key=worker_keys.public,
                on_message=self._hear,
                on_violation=on_violation,
            )
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"no socket for a worker: {error}") from error
        try:
            spawned = self._start(loop, spec)
        except OSError:
            self._link.discard()
            run_dir.forget(incarnation)
            raise
        self.pid = spawned.pid
        self._life_fd = spawned.life_fd
        self._output = OutputRing(loop, spawned.output_fd)

    def _start(self, loop: asyncio.AbstractEventLoop, spec: BootSpec) -> Spawned:
        """A process whose end will be seen, or none."""
        spawned = spawn_worker(spec, self._run_dir.crash_file(self._incarnation))
        try:
            watch_exit(loop, spawned.pid, self._ended)
        except OSError:
            spawned.abandon()
            raise
        return spawned

    def send(self, message: ToWorker) -> None:
        """Send a message; once the process has ended it is dropped."""
        if self._closing is not None:
            return
        if isinstance(message, Load):
            self._outputs.adopt(message.model.model_id, self._incarnation, self._output)
            looking = self._witness.look_at_files(Path(message.model.path))
            self._files_at_load = asyncio.get_running_loop().create_task(looking)
            directory = self._prefix_directory_of(message.model.model_id)
            message = msgspec.structs.replace(message, prefix_directory=directory)
        self._link.send(message)

    def _hear(self, message: FromWorker) -> None:
        if isinstance(message, Loaded) and self._files_at_load is not None and self._comparing is None:
            self._comparing = asyncio.get_running_loop().create_task(self._compare_files(message, self._files_at_load))
        else:
            self._on_message(message)

    async def _compare_files(self, loaded: Loaded, at_load: "asyncio.Task[Looks]") -> None:
        """Pass `Loaded` on once it is known that the model is of one piece."""
        change = await self._witness.changed_file(at_load)
        if change is not None:
            self._on_files_changed(change)
        self._on_message(loaded)

    def signal(self, which: WorkerSignal) -> None:
        """Signal the whole process group, so that children of the worker go too; once the process has ended, nobody."""
        if self._closing is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, _SIGNALS[which])

    @property
    def burial(self) -> "asyncio.Task[None] | None":
        """Once the process has ended: the task that hears its last words, reports its exit and frees what is left of ours."""
        return self._closing

    def _ended(self, status: int) -> None:
        self._closing = asyncio.get_running_loop().create_task(self._bury(status))

    async def _bury(self, status: int) -> None:
        self._output.close()
        await self._link.hear_last_words()
        observation = ExitObservation(
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            signal_number=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            stderr_tail=self._output.tail(),
            crash_head=self._read_crash_head(),
        )
        os.close(self._life_fd)
        self._on_exit(await self._witness.testify(observation, self.pid, self._files_at_load))
        for task in (self._files_at_load, self._comparing):
            if task is not None:
                task.cancel()
        await self._link.close()
        self._run_dir.forget(self._incarnation)

    def _read_crash_head(self) -> str:
        try:
            with self._run_dir.crash_file(self._incarnation).open(encoding="utf-8", errors="replace") as file:
                return file.read(_CRASH_HEAD_CHARACTERS)
        except OSError:
            return ""
