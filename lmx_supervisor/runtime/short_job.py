"""A job that somebody waits for: started, listened to, ended. Nothing of it is remembered afterwards."""

import asyncio
from typing import TypeVar

from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.jobs import JobDone, JobFailed, JobMessage, JobPhase, JobProbed, JobSpec
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.exit_reason import ExitObservation, Verdict, classify
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.job_process import JobProcess
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError

Message = TypeVar("Message", bound=JobMessage)


class ShortJob:
    """One of them. Create it on a running loop; every one must be ended with `end`."""

    def __init__(self, spec: JobSpec, run_dir: RunDir, *, memory_bytes_max: int | None = None) -> None:
        """Start it; one that says that it takes more than `memory_bytes_max` is killed. Raises `Refusal` OVERLOADED."""
        self.ended = asyncio.Event()
        self.outcome: JobDone | JobProbed | JobFailed | None = None
        """What it said last, before it left."""
        self.killed_for: str | None = None
        """Why it was killed, unless its owner did that."""
        self.phase: JobPhase | None = None
        self._memory_bytes_max = memory_bytes_max
        self._heard: dict[type[object], JobMessage] = {}
        self._observation: ExitObservation | None = None
        try:
            self._job = JobProcess(spec, run_dir, on_message=self._hear, on_violation=self._kill_for, on_exit=self._exited)
        except (OSError, RunDirError, ProtocolViolation) as error:
            raise Refusal(ErrorCode.OVERLOADED, f"No process can be started for that: {error}.") from error

    def heard(self, kind: type[Message]) -> Message | None:
        """The last message of a kind, or None."""
        message = self._heard.get(kind)
        return message if isinstance(message, kind) else None

    @property
    def observation(self) -> ExitObservation:
        """How it ended, which it must have."""
        assert self._observation is not None, "it has not ended"
        return self._observation

    @property
    def verdict(self) -> Verdict:
        """Why it ended, which it must have."""
        return classify(self.observation, state=WorkerState.LOADING, cause=None)

    async def end(self, *, polite_seconds: float = 0.0) -> None:
        """Return when its process is gone; one that still runs is asked to leave first if it has time for that."""
        if polite_seconds and not self.ended.is_set():
            self._job.terminate()
            try:
                async with asyncio.timeout(polite_seconds):
                    await self.ended.wait()
            except TimeoutError:
                pass
        self._job.kill()
        await self.ended.wait()

    def _hear(self, message: JobMessage) -> None:
        self._heard[type(message)] = message
        match message:
            case JobDone() | JobProbed() | JobFailed():
                self.outcome = self.outcome or message
            case JobPhase():
                self.phase = message
                if self._memory_bytes_max is not None and message.memory_bytes > self._memory_bytes_max:
                    self._kill_for(f"it took {message.memory_bytes} bytes of memory, more than {self._memory_bytes_max}")
            case _:
                pass

    def _kill_for(self, reason: str) -> None:
        self.killed_for = self.killed_for or reason
        self._job.kill()

    def _exited(self, observation: ExitObservation) -> None:
        self._observation = observation
        self.ended.set()
