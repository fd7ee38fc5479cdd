"""Autotune: load a model with one set of settings after the other, measure each, keep the best, and put the model back.

Each load is a trial (`core.trial`). Requests that come while settings are changed wait for the next candidate, and are
served by it. Whatever ends an autotune, the model is put back as it was: loaded as it was ordered, or not at all. Only an
operator's unload is believed, and ends the autotune with the model unloaded.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.autotune import (
    Candidate,
    Metrics,
    Round,
    TunedRecord,
    TuneOrder,
    TuneReport,
    best_of,
    default_candidates,
    metrics_of,
)
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile, merged, settings_of
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.core.slot import COMING, SERVING
from lmx_supervisor.core.stop_reason import StopReason
from lmx_supervisor.core.trial import Trial, WantedModel
from lmx_supervisor.runtime.measuring import Submit, measure_round, measured_request
from lmx_supervisor.runtime.model_loader import ModelLoader
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.tuned_profiles import TunedProfiles

log = logging.getLogger("lmx.autotune")

_FAILS_ONE_CANDIDATE = frozenset(
    {
        ErrorCode.INSUFFICIENT_MEMORY,
        ErrorCode.MODEL_LOADER_CRASHED,
        ErrorCode.MODEL_LOAD_TIMEOUT,
        ErrorCode.MODEL_CANARY_FAILED,
        ErrorCode.MODEL_PROBE_FAILED,
        ErrorCode.MODEL_UNSUPPORTED_ARCH,
        ErrorCode.MODEL_UNSUPPORTED_BACKEND,
        ErrorCode.INVALID_VALUE,
        ErrorCode.NOT_SUPPORTED,
    }
)
"""What a load may be refused with because of its settings; anything else ends the autotune."""


@dataclass(slots=True)
class _Run:
    """One autotune under way."""

    order: TuneOrder
    backend: str
    profiles: tuple[LoadProfile, ...]
    concurrency: int
    before: WantedModel | None
    """How the model was loaded; None: it was not."""
    candidates: list[Candidate] = field(default_factory=list)
    backend_version: str = ""
    touched: bool = False
    """A trial was begun: there is something to put back."""
    abandoned: bool = False
    """An operator took the model away: it stays as they left it."""


class Autotuner:
    """One service's; one autotune at a time. Create it on a running loop."""

    def __init__(
        self,
        config: Callable[[], Config],
        supervisor: Supervisor,
        loader: ModelLoader,
        tuned: TunedProfiles,
        submit: Submit,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._loader = loader
        self._tuned = tuned
        self._submit = submit
        self._putting_back: asyncio.Task[None] | None = None
        self.model_id: str | None = None
        """The model that is being tuned or put back."""

    async def tune(self, order: TuneOrder) -> TuneReport:
        """Find the best settings and keep them. Cancelled, it puts the model back all the same. Raises `Refusal`."""
        if self.model_id is not None:
            text = f"Model '{self.model_id}' is being tuned; one model is tuned at a time. Try again when that is done."
            raise Refusal(ErrorCode.MODEL_IN_USE, text)
        self.model_id = order.model_id
        run: _Run | None = None
        try:
            run = await self._prepare(order)
            report = await self._try_all(run)
        except Refusal as refusal:
            self._supervisor.tell("autotune_failed", model_id=order.model_id, code=refusal.code, text=refusal.message)
            raise
        finally:
            putting_back = self._put_back_soon(run)
        await asyncio.shield(putting_back)
        return report

    # --- the candidates ---------------------------------------------------------------------------------------------------

    async def _prepare(self, order: TuneOrder) -> _Run:
        worker = self._supervisor.view().worker(order.model_id)
        if worker is not None and worker.state in COMING:
            text = f"Model '{order.model_id}' is being loaded; tune it when it is served."
            raise Refusal(ErrorCode.MODEL_LOADING, text, param="model_id")
        serves = worker is not None and worker.state in SERVING
        wanted = self._supervisor.lasting().wanted if serves else ()
        before = next((model for model in wanted if model.spec.model_id == order.model_id), None)
        models = self._config().models
        backend = before.backend if before is not None else await self._loader.backend_of(order.model_id)
        return _Run(
            order=order,
            backend=backend,
            profiles=order.profiles or default_candidates(backend, models, os.cpu_count() or 1),
            concurrency=order.concurrency or models.slots,
            before=before,
        )

    async def _try_all(self, run: _Run) -> TuneReport:
        first_refusal: Refusal | None = None
        for profile in run.profiles:
            self._tell(run, "loading", profile)
            try:
                candidate = await self._try(run, profile)
            except _CandidateFailed as failed:
                first_refusal = first_refusal or failed.refusal
                candidate = Candidate(profile=profile, metrics=Metrics(), error=str(failed.refusal), code=failed.refusal.code)
            self._tell(run, "measured" if candidate.metrics.error_rate < 1 else "failed", profile, candidate)
            run.candidates.append(candidate)
        best = best_of(run.candidates)
        if best is None:
            assert first_refusal is not None, "a candidate that failed has a reason"
            raise first_refusal
        record = TunedRecord(
            ts=time.time(),
            model_id=run.order.model_id,
            backend=run.backend,
            backend_version=run.backend_version,
            profile=settings_of(best.profile),
            metrics=best.metrics,
            score=best.score,
        )
        await self._tuned.keep(record)
        self._supervisor.tell(
            "autotune_completed", model_id=run.order.model_id, best_profile=record.profile, best_score=record.score
        )
        return TuneReport(record=record, candidates=tuple(run.candidates))

    async def _try(self, run: _Run, profile: LoadProfile) -> Candidate:
        """One candidate. Raises `_CandidateFailed`, and `Refusal` for what ends the autotune."""
        incarnation = await self._load(run, profile)
        self._tell(run, "measuring", profile)
        rounds: list[Round] = []
        error: str | None = None
        for _ in range(run.order.runs):
            order = run.order
            requests = [
                measured_request(order.model_id, order.prompt, order.max_tokens, order.temperature)
                for _ in range(run.concurrency)
            ]
            measured, refusal = await measure_round(self._submit, requests)
            self._check_still_there(run, incarnation, refusal)
            rounds.append(measured)
            error = error or (str(refusal) if refusal is not None else None)
        metrics = metrics_of(rounds)
        if metrics.error_rate >= 1:
            raise _CandidateFailed(Refusal(ErrorCode.GENERATION_ERROR, error or "no generation came to its end"))
        return Candidate(profile=profile, metrics=metrics, error=error)

    async def _load(self, run: _Run, profile: LoadProfile) -> str:
        before = run.before
        order = LoadOrder(
            model_id=run.order.model_id,
            profile=merged(profile, before.profile.explicit if before is not None else NOTHING, NOTHING),
            keep_alive_seconds=before.keep_alive_seconds if before is not None else None,
            allow_unsupported_runtime=run.order.allow_unsupported_runtime,
        )
        run.touched = True
        try:
            await self._loader.load(order, at_start=False, replaces=True, trial=Trial(before))
        except Refusal as refusal:
            run.abandoned = refusal.code is ErrorCode.MODEL_LOAD_CANCELLED
            if refusal.code in _FAILS_ONE_CANDIDATE:
                raise _CandidateFailed(refusal) from refusal
            raise
        worker = self._supervisor.view().worker(run.order.model_id)
        if worker is None or worker.incarnation is None or worker.facts is None:
            raise self._taken_away(run)
        run.backend_version = worker.facts.backend_version
        return worker.incarnation

    def _check_still_there(self, run: _Run, incarnation: str, refusal: Refusal | None) -> None:
        """A worker that is gone after a round has died, which is its candidate's failure, or an operator took it away."""
        fleet = self._supervisor.view()
        if refusal is not None and fleet.draining:
            raise refusal
        worker = fleet.worker(run.order.model_id)
        if worker is not None and worker.incarnation == incarnation and worker.state in SERVING:
            return
        if worker is not None and worker.incarnation is None and worker.state in (WorkerState.FAILED, WorkerState.QUARANTINED):
            text = worker.last_exit.text if worker.last_exit is not None else "its worker died"
            raise _CandidateFailed(Refusal(ErrorCode.MODEL_LOADER_CRASHED, f"The worker died: {text}"))
        raise self._taken_away(run)

    def _taken_away(self, run: _Run) -> Refusal:
        run.abandoned = True
        text = f"Model '{run.order.model_id}' was unloaded while it was being tuned; nothing was kept."
        return Refusal(ErrorCode.MODEL_LOAD_CANCELLED, text)

    # --- putting back -------------------------------------------------------------------------------------------------------

    def _put_back_soon(self, run: _Run | None) -> asyncio.Task[None]:
        """In a task of its own: it belongs to the service, whatever becomes of the caller."""
        task = asyncio.get_running_loop().create_task(self._put_back(run))
        task.add_done_callback(self._ended)
        self._putting_back = task
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.model_id = self._putting_back = None
        if not task.cancelled() and (error := task.exception()) is not None:
            # The caller may be gone; operators are told in any case.
            log.debug("autotune ended with %r", error)

    async def _put_back(self, run: _Run | None) -> None:
        if run is None or not run.touched or run.abandoned:
            return
        try:
            await (self._unload(run) if run.before is None else self._load_again(run, run.before))
        except Refusal as refusal:
            self._supervisor.tell(
                "autotune_restore_failed",
                model_id=run.order.model_id,
                code=refusal.code,
                text=refusal.message,
                alarming=refusal.code is not ErrorCode.SHUTTING_DOWN,
            )
            raise

    async def _load_again(self, run: _Run, before: WantedModel) -> None:
        """As it was ordered; what the order left open, the best settings decide now."""
        order = LoadOrder(
            model_id=run.order.model_id, profile=before.profile.explicit, keep_alive_seconds=before.keep_alive_seconds
        )
        await self._loader.load(order, at_start=False, replaces=True)

    async def _unload(self, run: _Run) -> None:
        worker = self._supervisor.view().worker(run.order.model_id)
        if worker is None or worker.state is WorkerState.QUARANTINED:
            return
        with suppress(Refusal):
            await self._supervisor.unload(run.order.model_id, StopReason.AUTOTUNE_CLEANUP)

    def _tell(self, run: _Run, phase: str, profile: LoadProfile, measured: Candidate | None = None) -> None:
        self._supervisor.tell(
            "autotune_progress",
            model_id=run.order.model_id,
            candidate=len(run.candidates) + 1,
            candidates=len(run.profiles),
            phase=phase,
            profile=settings_of(profile),
            metrics=measured.metrics if measured is not None else None,
            score=measured.score if measured is not None else None,
            error=measured.error if measured is not None else None,
        )


class _CandidateFailed(Exception):  # noqa: N818 - an outcome, with its reason
    """These settings do not work; others may."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
