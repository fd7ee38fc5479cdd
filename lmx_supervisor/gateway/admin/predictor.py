"""GET /admin/predictor: which models were wanted lately, which is likely to be next, and what was loaded for that reason."""

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.responses import json_response


class AdminPredictor:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, _: Request) -> Response:
        """`predicted_next` is null while nothing is likely enough, or what is likely is there already."""
        seen, models = self._service.accesses(), self._service.config.models
        return json_response(
            {
                "total_accesses": seen.total_accesses,
                "unique_models": len(set(seen.history)),
                "history_size": len(seen.history),
                "top_models": seen.top_models,
                "transition_count": seen.transition_count,
                "predicted_next": seen.predicted_next,
                "warm_pool": {
                    "enabled": models.warm_pool_enabled,
                    "size": models.warm_pool_size,
                    "unused": [worker.model_id for worker in self._service.fleet().workers if worker.prefetched],
                },
            }
        )
