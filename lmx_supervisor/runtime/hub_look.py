"""What the hub holds and whether it would fit, asked by a short job: whoever wants a download is told at once what stands
against it.
"""

import asyncio
import secrets

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, JobFailed, JobPlanned
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.short_job import ShortJob


class HubLooks:
    """A bounded number at a time. Create it on a running loop; end it with `close`."""

    def __init__(self, specs: JobSpecs, run_dir: RunDir) -> None:
        self._specs = specs
        self._run_dir = run_dir
        self._places = asyncio.Semaphore(limits.HUB_LOOKS_AT_ONCE)
        self._looks: set[ShortJob] = set()

    async def look(self, order: DownloadOrder) -> JobPlanned:
        """What a download would come to. Raises `Refusal`, also when it would not fit."""
        async with self._places:
            look = ShortJob(self._specs.look(f"look-{secrets.token_hex(8)}", order), self._run_dir)
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
            return _result(look, order)

    async def close(self) -> None:
        """End those that run."""
        for look in list(self._looks):
            await look.end()


def _result(look: ShortJob, order: DownloadOrder) -> JobPlanned:
    """What it learned. Raises `Refusal`."""
    if isinstance(look.outcome, JobFailed):
        raise Refusal(look.outcome.code, look.outcome.message, param="repo_id")
    plan = look.heard(JobPlanned)
    if plan is None or not isinstance(look.outcome, JobDone):
        text = f"The process that asked the hub about {order.repo_id} died: {look.verdict.text}."
        raise Refusal(ErrorCode.HUB_UNAVAILABLE, text)
    return plan
