"""What the hub holds and whether it would fit, asked by a short job: whoever wants a download is told at once what stands
against it.
"""

import asyncio
import secrets

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.jobs import JobDone, JobFailed, JobMessage, JobPlanned
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.exit_reason import ExitObservation, classify
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.job_process import JobProcess
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError


class HubLooks:
    """A bounded number at a time. Create it on a running loop; end it with `close`."""

    def __init__(self, specs: JobSpecs, run_dir: RunDir) -> None:
        self._specs = specs
        self._run_dir = run_dir
        self._places = asyncio.Semaphore(limits.HUB_LOOKS_AT_ONCE)
        self._looks: set[_Look] = set()

    async def look(self, order: DownloadOrder) -> JobPlanned:
        """What a download would come to. Raises `Refusal`, also when it would not fit."""
        async with self._places:
            look = _Look(self._specs, self._run_dir, order)
            self._looks.add(look)
            try:
                async with asyncio.timeout(limits.HUB_LOOK_SECONDS):
                    await look.ended.wait()
            except TimeoutError:
                text = f"The hub did not say within {limits.HUB_LOOK_SECONDS:g} seconds what {order.repo_id} holds."
                raise Refusal(ErrorCode.HUB_UNAVAILABLE, text) from None
            finally:
                await look.end()
                self._looks.discard(look)
            return look.result()

    async def close(self) -> None:
        """End those that run."""
        for look in list(self._looks):
            await look.end()


class _Look:
    def __init__(self, specs: JobSpecs, run_dir: RunDir, order: DownloadOrder) -> None:
        self.ended = asyncio.Event()
        self._order = order
        self._plan: JobPlanned | None = None
        self._failure: JobFailed | None = None
        self._is_done = False
        self._end_text = ""
        try:
            self._job = JobProcess(
                specs.look(f"look-{secrets.token_hex(8)}", order),
                run_dir,
                on_message=self._hear,
                on_violation=lambda _: self._job.kill(),
                on_exit=self._exited,
            )
        except (OSError, RunDirError, ProtocolViolation) as error:
            raise Refusal(ErrorCode.OVERLOADED, f"No process can be started to ask the hub: {error}.") from error

    async def end(self) -> None:
        """Return when its process is gone."""
        self._job.kill()
        await self.ended.wait()

    def result(self) -> JobPlanned:
        """What it learned. Raises `Refusal`."""
        if self._failure is not None:
            raise Refusal(self._failure.code, self._failure.message, param="repo_id")
        if self._plan is None or not self._is_done:
            text = f"The process that asked the hub about {self._order.repo_id} died: {self._end_text}."
            raise Refusal(ErrorCode.HUB_UNAVAILABLE, text)
        return self._plan

    def _hear(self, message: JobMessage) -> None:
        match message:
            case JobPlanned():
                self._plan = message
            case JobFailed():
                self._failure = message
            case JobDone():
                self._is_done = True
            case _:
                pass

    def _exited(self, observation: ExitObservation) -> None:
        self._end_text = classify(observation, state=WorkerState.BUSY, cause=None).text
        self.ended.set()
