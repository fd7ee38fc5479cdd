"""Loading the model that is likely to be wanted next, before anybody asks: when, and when not. Pure.

A prefetch is a courtesy and costs nobody anything: it takes only memory that is free, waits for quiet times, and a model that
it brought and nobody used is the first to go when another needs room.
"""

import math

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import admission
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import OrderRefused, Prefetch
from lmx_supervisor.core.loading import Loading
from lmx_supervisor.core.slot import COMING, Slot
from lmx_supervisor.core.state import FleetState


class WarmPool:
    """Remembers when it last looked."""

    def __init__(self, state: FleetState, loading: Loading) -> None:
        self._state = state
        self._loading = loading
        self._looked_at: float | None = None

    def look(self, now: float) -> None:
        """With every tick: every `prefetch_interval_sec`, ask for the next model if one is likely and this is a quiet time."""
        policy = self._state.policy
        if not policy.warm_pool_enabled:
            # Switched on later, it looks at once.
            self._looked_at = -math.inf
            return
        if self._looked_at is None:
            # Switched on from the start, it lets the models be loaded first that were asked for.
            self._looked_at = now
        if now - self._looked_at < policy.prefetch_interval_seconds:
            return
        self._looked_at = now
        model_id = self._state.predictor.predict(self._state.slots)
        if model_id is not None and self._why_not() is None:
            self._state.emit(Prefetch(model_id))

    def wanted(self, event: e.PrefetchWanted, now: float) -> None:
        """The model was found: load it, if all is as quiet as it was and it fits. What it needs must be known for that."""
        order = event.load
        model_id = order.spec.model_id
        why_not = self._why_not()
        if why_not is None and model_id in self._state.slots:
            why_not = "somebody has asked for it meanwhile"
        if why_not is None and (order.need is None or self._state.host is None):
            why_not = "it is not known whether it fits"
        if why_not is not None:
            self._state.emit(OrderRefused(order.order_id, ErrorCode.OVERLOADED, f"Model '{model_id}': {why_not}."))
            return
        slot = Slot(order.spec, order.backend, digest=order.digest, size_bytes=order.size_bytes, need=order.need)
        claimed = admission.claim(self._state, slot, may_evict=False)
        if isinstance(claimed, admission.Denied):
            self._state.emit(OrderRefused(order.order_id, ErrorCode.INSUFFICIENT_MEMORY, claimed.text))
            return
        self._loading.prefetch(order, now)

    def _why_not(self) -> str | None:
        """Why nothing is to be loaded unasked right now; None when something may be."""
        state, slots = self._state, self._state.slots.values()
        if not state.policy.warm_pool_enabled:
            return "the warm pool is switched off"
        if state.safe_mode:
            return "the service is in safe mode"
        if state.draining or state.shedding:
            return "the service is stopping" if state.draining else "the host's memory is short"
        if any(slot.state in COMING or slot.state is WorkerState.DRAINING or slot.keeps_its_line for slot in slots):
            return "other models are coming or leaving"
        if sum(slot.prefetched for slot in slots) >= state.policy.warm_pool_size:
            return "the warm pool is full of models that nobody has used yet"
        return None
