"""Probes: which backends can open a model, each asked in a process of its own that may crash, hang or eat memory as it likes.

What was learned about the model goes into the compatibility registry by what operators are told (`model_probed`).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobFailed, JobProbed
from lmx_protocol.messages import ModelSpec
from lmx_supervisor.core.actions import Autopsy, Tell
from lmx_supervisor.core.backend_choice import Candidate
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.probes import Outcome, ProbeCandidate, ProbeOrder, ProbeReport, report
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.job_evidence import job_autopsy
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.short_job import ShortJob

_SAYS_NOTHING_OF_THE_MODEL = frozenset(
    {
        ExitReason.CONFIG,
        ExitReason.EXTERNAL,
        ExitReason.PARENT_GONE,
        ExitReason.PROTOCOL,
        ExitReason.SPAWN_FAILED,
        ExitReason.WRONG_BUILD,
    }
)


class Prober:
    """A bounded number at a time, and a bounded number that wait. Create it on a running loop; end it with `close`."""

    def __init__(
        self,
        specs: JobSpecs,
        run_dir: RunDir,
        *,
        tell: Callable[[Tell], None],
        autopsy: Callable[[Autopsy], None],
        memory_bytes_max: int = limits.PROBE_MEMORY_BYTES_MAX,
    ) -> None:
        """`tell`, `autopsy`: take what operators are told, and the deaths of processes."""
        self._specs = specs
        self._run_dir = run_dir
        self._tell = tell
        self._autopsy = autopsy
        self._memory_bytes_max = memory_bytes_max
        self._places = asyncio.Semaphore(limits.PROBES_AT_ONCE)
        self._inside = 0
        self._jobs: set[ShortJob] = set()
        self._closing = False

    async def probe(self, order: ProbeOrder, spec: ModelSpec, candidates: Sequence[Candidate]) -> ProbeReport:
        """Ask one backend after the other. Raises `Refusal`."""
        if self._inside >= limits.PROBES_AT_ONCE + limits.PROBES_WAITING_MAX:
            text = f"{self._inside} probes run or wait, which is all there may be; try again when some have ended."
            raise Refusal(ErrorCode.RATE_LIMIT_EXCEEDED, text)
        self._inside += 1
        try:
            async with self._places:
                return report(order.model_id, [await self._candidate(order, spec, each) for each in candidates])
        finally:
            self._inside -= 1

    async def close(self) -> None:
        """End those that run; those that wait are refused."""
        self._closing = True
        for job in list(self._jobs):
            await job.end()

    async def _candidate(self, order: ProbeOrder, spec: ModelSpec, candidate: Candidate) -> ProbeCandidate:
        if candidate.failed is not None:
            text = f"skipped, because it failed the last time ({candidate.failed}); allow_unsupported_runtime probes it anyway"
            return ProbeCandidate(backend=candidate.backend, outcome="unknown", reason=_reason(ErrorCode.MODEL_UNSTABLE, text))
        if self._closing:
            raise Refusal(ErrorCode.SHUTTING_DOWN, "The service is stopping.")
        began = time.monotonic()
        late: str | None = None
        job = ShortJob(
            self._specs.probe(f"probe-{secrets.token_hex(8)}", candidate.backend, spec, self._memory_bytes_max),
            self._run_dir,
            memory_bytes_max=self._memory_bytes_max,
        )
        self._jobs.add(job)
        try:
            async with asyncio.timeout(order.timeout_seconds):
                await job.ended.wait()
        except TimeoutError:
            phase = f", while it was {job.phase.phase}" if job.phase is not None else ""
            text = f"it was not done after {order.timeout_seconds:g} s{phase}, and was ended"
            late = _reason(ErrorCode.MODEL_LOAD_TIMEOUT, text)
        finally:
            await job.end(polite_seconds=limits.PROBE_TERMINATE_SECONDS)
            self._jobs.discard(job)
        if self._closing:
            raise Refusal(ErrorCode.SHUTTING_DOWN, "The service is stopping.")
        return self._told(order, candidate, job, late, time.monotonic() - began)

    def _told(self, order: ProbeOrder, candidate: Candidate, job: ShortJob, late: str | None, seconds: float) -> ProbeCandidate:
        found = job.outcome if isinstance(job.outcome, JobProbed) and job.observation.code == 0 else None
        # How much time there is says more of whoever asked than of the model: it is answered, and not remembered.
        outcome, reason = ("fail", late) if late is not None else self._judge(order, job, seconds)
        answer = ProbeCandidate(
            backend=candidate.backend,
            outcome=outcome,
            reason=reason,
            backend_version=found.backend_version if found is not None and late is None else None,
            architecture=found.architecture if found is not None and late is None else None,
            duration_sec=round(seconds, 3),
        )
        self._tell(
            Tell(
                "model_probed",
                {
                    "model_id": order.model_id,
                    "backend": answer.backend,
                    "backend_version": answer.backend_version,
                    "outcome": outcome,
                    "reason": reason,
                    "duration_seconds": seconds,
                    "is_evidence": outcome != "unknown" and late is None,
                },
            )
        )
        return answer

    def _judge(self, order: ProbeOrder, job: ShortJob, seconds: float) -> tuple[Outcome, str | None]:
        if job.killed_for is not None:
            return "fail", _reason(ErrorCode.MODEL_PROBE_FAILED, f"it was killed: {job.killed_for}")
        if isinstance(job.outcome, JobFailed):
            if job.outcome.code is ErrorCode.NOT_SUPPORTED:
                return "unknown", _reason(ErrorCode.MODEL_UNSUPPORTED_BACKEND, job.outcome.message)
            return "fail", _reason(job.outcome.code, job.outcome.message)
        if isinstance(job.outcome, JobProbed) and job.observation.code == 0:
            return "pass", None
        self._autopsy(job_autopsy("probe", order.model_id, job.observation, seconds))
        text = _reason(ErrorCode.MODEL_LOADER_CRASHED, job.verdict.text)
        return ("unknown" if job.verdict.reason in _SAYS_NOTHING_OF_THE_MODEL else "fail"), text


def _reason(code: ErrorCode, text: str) -> str:
    return f"{code.value}:{text}"
