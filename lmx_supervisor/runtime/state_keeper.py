"""Keeps `runtime-state.json` true while the service runs, so that the next start finds what it needs however this one ends."""

import time
from collections import deque
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.lasting import Lasting, LivingWorker
from lmx_supervisor.core.startup import StartupDecision
from lmx_supervisor.runtime.boot_sweep import machine_boot_id, start_time_of
from lmx_supervisor.runtime.state_file import (
    FILE_NAME,
    RuntimeState,
    SavedCrash,
    SavedModel,
    SavedPeak,
    SavedQuarantine,
    SavedWorker,
    saved_model,
    saved_quarantine,
)
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.write_behind import WriteBehind


class StateKeeper:
    """One home's state. Create it on a running loop, before anything is loaded; end it with `close`."""

    def __init__(
        self, home: Path, supervisor: Supervisor, last: RuntimeState | None, decision: StartupDecision, pid: int
    ) -> None:
        last = last or RuntimeState()
        self._supervisor = supervisor
        self._decision = decision
        self._pid = pid
        self._started_at_unix = decision.recent_starts[-1]
        self._boot_id = machine_boot_id()
        self._saved = {saved.spec.model_id: saved for saved in last.models}
        keep = last.loaded_models if decision.crash_loop_detected else decision.restore
        self._unrestored = dict.fromkeys(keep)
        self._wanted: tuple[SavedModel, ...] = ()
        self._quarantined_since = {saved.spec.model_id: saved.since for saved in last.quarantine}
        self._crashes = deque(last.crash_history, maxlen=limits.CRASH_HISTORY_MAX)
        self._workers: dict[str, SavedWorker] = {}
        self._stopped_cleanly = False
        self._file = WriteBehind(home / FILE_NAME, self._compose, self._complain)
        supervisor.subscribe(self._told)

    async def write_now(self) -> None:
        """Have this start on the disk before anything is done that could end it."""
        await self._file.write_now()

    def to_restore(self, model_id: str) -> SavedModel | None:
        """How a model was loaded before the last stop, where that is known."""
        return self._saved.get(model_id)

    def restore_tried(self, model_id: str) -> None:
        """Its restore has ended, one way or the other: from here on the fleet knows whether it is wanted."""
        self._unrestored.pop(model_id, None)
        self._file.changed()

    async def close(self, *, clean: bool) -> None:
        """The last write. `clean`: everything was stopped in order, so the next start has nothing to bring back."""
        self._stopped_cleanly = clean
        await self._file.close()

    def _told(self, tell: Tell) -> None:
        if tell.kind == "worker_exited" and tell.alarming:
            self._crashes.append(_crash(tell))
        lasting = self._supervisor.lasting()
        if not lasting.draining:
            # What a drain ends is still what was loaded, should the stop not come to its end.
            self._note_wanted(lasting)
        self._file.changed()

    def _note_wanted(self, lasting: Lasting) -> None:
        self._wanted = tuple(saved_model(model) for model in lasting.wanted)
        for model in self._wanted:
            self._unrestored.pop(model.spec.model_id, None)

    def _compose(self, written: RuntimeState | None) -> RuntimeState | None:
        lasting = self._supervisor.lasting()
        if not lasting.draining:
            self._note_wanted(lasting)
        state = RuntimeState(
            last_clean_shutdown=self._stopped_cleanly,
            pid=self._pid,
            saved_at=time.time(),
            last_startup_at=self._started_at_unix,
            boot_id=self._boot_id,
            quarantine=self._quarantine(lasting),
            crash_history=tuple(self._crashes),
            memory_peaks=tuple(SavedPeak(digest=digest, bytes=size) for digest, size in lasting.peaks),
        )
        if not self._stopped_cleanly:
            models = (*self._wanted, *(self._saved[model_id] for model_id in self._unrestored if model_id in self._saved))
            state = msgspec.structs.replace(
                state,
                loaded_models=(*(model.spec.model_id for model in self._wanted), *self._unrestored),
                models=models,
                startup_count=self._decision.startup_count,
                recent_starts=self._decision.recent_starts,
                workers=self._living(lasting.workers),
            )
        if written is not None and msgspec.structs.replace(state, saved_at=written.saved_at) == written:
            return None
        return state

    def _quarantine(self, lasting: Lasting) -> tuple[SavedQuarantine, ...]:
        now_unix = time.time()
        self._quarantined_since = {
            model.spec.model_id: self._quarantined_since.get(model.spec.model_id, now_unix) for model in lasting.quarantined
        }
        return tuple(saved_quarantine(model, self._quarantined_since[model.spec.model_id]) for model in lasting.quarantined)

    def _living(self, workers: tuple[LivingWorker, ...]) -> tuple[SavedWorker, ...]:
        known = self._workers
        self._workers = {}
        for worker in workers:
            saved = known.get(worker.incarnation)
            if saved is None:
                start_time = start_time_of(worker.pid)
                if start_time is None:
                    continue
                saved = SavedWorker(pid=worker.pid, start_time=start_time, incarnation=worker.incarnation)
            self._workers[worker.incarnation] = saved
        return tuple(self._workers.values())

    def _complain(self, text: str) -> None:
        self._supervisor.tell("state_write_failed", text=text, alarming=True)


def _crash(tell: Tell) -> SavedCrash:
    fields = tell.fields
    model_id, crash_id = fields["model_id"], fields["crash_id"]
    return SavedCrash(
        at=time.time(),
        model_id=None if model_id is None else str(model_id),
        reason=str(fields["reason"]),
        text=str(fields["text"]),
        crash_id=None if crash_id is None else str(crash_id),
    )
