"""Finds the models that requests ask for and that are not loaded, and tells the core how they would be loaded.

Whether they are, and when, the core decides once the request is there. Many requests for one model look it up once; nothing is
ever fetched from elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.events import LoadWanted
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.model_supply import being_deleted
from lmx_supervisor.runtime.supervisor import Supervisor

_NOT_HERE = frozenset({ErrorCode.DOWNLOADS_DISABLED, ErrorCode.INVALID_VALUE})
"""Why a load cannot find its model, where a request only needs to know that it is not there."""


class Demands:
    """One service's."""

    def __init__(
        self, supervisor: Supervisor, find: Callable[[str], Awaitable[LoadWanted]], being_deleted: Container[str]
    ) -> None:
        """`find` says how a model is loaded, by its id or a name that the catalog knows for it; it raises `Refusal`."""
        self._supervisor = supervisor
        self._find = find
        self._being_deleted = being_deleted
        self._look_ups: dict[str, asyncio.Task[str]] = {}

    async def demand(self, name: str) -> str:
        """Have the request that is about to be submitted find its model; returns the model's id. Raises `Refusal`."""
        look_up = self._look_ups.get(name)
        if look_up is None:
            look_up = self._look_ups[name] = asyncio.get_running_loop().create_task(self._look_up(name))
            look_up.add_done_callback(lambda done: self._looked_up(name, done))
        return await asyncio.shield(look_up)

    def _looked_up(self, name: str, look_up: "asyncio.Task[str]") -> None:
        del self._look_ups[name]
        # Whoever asked may be gone by now; that is no unhandled error.
        if not look_up.cancelled():
            look_up.exception()

    async def _look_up(self, name: str) -> str:
        try:
            load = await self._find(name)
        except Refusal as refusal:
            code = ErrorCode.MODEL_NOT_FOUND if refusal.code in _NOT_HERE else refusal.code
            again = refusal.retry_after_seconds
            raise Refusal(code, refusal.message, param="model", retry_after_seconds=again) from refusal
        model_id = load.spec.model_id
        if model_id in self._being_deleted:
            raise being_deleted(model_id, "model")
        self._supervisor.demand(load)
        return model_id
