"""The heart thread: once a second it says that this process lives, what its engine does and what it costs.

It runs beside the engine on purpose. A beat proves that the process is alive and its GIL free; only the step counter in it
proves that the engine moves. Each beat first looks for the parent, then winds up the C watchdog: no beats, no life.
"""

import os
import time

from lmx_protocol.errors import ExitCode
from lmx_protocol.messages import Beat, BootSpec
from lmx_worker.backends.base import Backend, BackendStats
from lmx_worker.crash_file import CrashFile
from lmx_worker.deadman import is_child_of
from lmx_worker.memory import footprint_bytes
from lmx_worker.outbox import Outbox
from lmx_worker.vitals import Vitals

_NOTHING_DONE = BackendStats(active=0, tokens_prefilled=0, tokens_decoded=0, kv_used_ratio=0.0)


class Heart:
    """Beats until the process ends."""

    def __init__(self, *, spec: BootSpec, backend: Backend, outbox: Outbox, vitals: Vitals, crash_file: CrashFile) -> None:
        self._spec = spec
        self._backend = backend
        self._outbox = outbox
        self._vitals = vitals
        self._crash_file = crash_file
        self._next_seq = 0

    def run(self) -> None:
        """The thread's body."""
        while True:
            if not is_child_of(self._spec.supervisor_pid):
                os._exit(ExitCode.PARENT_GONE)
            self._crash_file.rearm_watchdog(self._spec.c_watchdog_seconds)
            # Beats are news, not history: a supervisor that does not read needs no pile of them.
            if not self._outbox.backlogged:
                self._outbox.post(self.beat())
            time.sleep(self._spec.beat_interval_seconds)

    def beat(self) -> Beat:
        """The next beat."""
        vitals = self._vitals
        stats = self._backend.stats() if vitals.loaded else _NOTHING_DONE
        seq = self._next_seq
        self._next_seq += 1
        return Beat(
            seq=seq,
            phase=vitals.phase,
            steps=vitals.steps,
            tokens_prefilled=stats.tokens_prefilled,
            tokens_decoded=stats.tokens_decoded,
            active=vitals.active,
            waiting=vitals.waiting,
            footprint_bytes=footprint_bytes(),
            kv_used_ratio=stats.kv_used_ratio,
        )
