"""Models that are not served and may be loaded for a request (`models.load_on_demand`): the look-up before it waits."""

from collections.abc import Sequence

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.model_patterns import is_one_of
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.callers import Caller
from lmx_supervisor.gateway.problem import Problem

_QUARANTINED = frozenset({WorkerState.QUARANTINED})
_BROKEN = frozenset({WorkerState.QUARANTINED, WorkerState.FAILED})


async def demand(service: Service, names: Sequence[str], caller: Caller, *, is_list: bool) -> str | None:
    """The id of the first of these models that is loaded for a caller's request; None where none may be.

    The one model that a request names is what it gets, whatever is wrong with it; of a list (`is_list`), what is not on this
    machine, quarantined or broken is passed over. Raises `Problem` where the model cannot be loaded as it is.
    """
    models = service.config.models
    if not models.load_on_demand:
        return None
    fleet, is_out = service.fleet(), _BROKEN if is_list else _QUARANTINED
    for name in names:
        worker = fleet.worker(name)
        if not caller.may_use(name) or not is_one_of(models.on_demand_models, name):
            continue
        if worker is not None and worker.state in is_out:
            continue
        try:
            return await service.demand(name)
        except Refusal as refusal:
            if not is_list or refusal.code is not ErrorCode.MODEL_NOT_FOUND:
                raise Problem.of(refusal) from refusal
    return None
