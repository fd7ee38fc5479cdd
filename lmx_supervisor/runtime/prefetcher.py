"""Finds the model that the core foresees, and has it loaded if it still may be. A model that cannot be found is no failure."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.supervisor import Supervisor

log = logging.getLogger("lmx.prefetch")


class Prefetcher:
    """One service's."""

    def __init__(self, supervisor: Supervisor, load: Callable[[str], Awaitable[object]]) -> None:
        """`load` has a model loaded unasked, by its id; it raises `Refusal` when it cannot or may not be."""
        self._load = load
        self._tasks: dict[str, asyncio.Task[None]] = {}
        supervisor.on_prefetch = self._prefetch

    def is_busy_with(self, model_id: str) -> bool:
        """Whether a model's files are being looked at or loaded."""
        return model_id in self._tasks

    def _prefetch(self, model_id: str) -> None:
        if model_id in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._try(model_id))
        self._tasks[model_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(model_id))

    async def _try(self, model_id: str) -> None:
        try:
            await self._load(model_id)
        except Refusal as refusal:
            log.info("prefetch_refused", extra={"model_id": model_id, "code": refusal.code, "text": refusal.message})
