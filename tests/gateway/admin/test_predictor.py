"""GET /admin/predictor: the fields that the predecessor's readers know, and the warm pool."""

import httpx
import msgspec

from lmx_supervisor.config.schema import Config, ModelsConfig
from lmx_supervisor.core.predictor import PredictorView
from tests.gateway.service import FedService, worker_view


async def test_what_was_seen_and_what_is_foreseen(client: httpx.AsyncClient, service: FedService) -> None:
    """Counts, favourites, the prediction, and the models that nobody has used yet."""
    service.seen = PredictorView(70, ("a", "b", "a"), "b")
    service.config = Config(models=ModelsConfig(warm_pool_enabled=True, warm_pool_size=1))
    service.workers = [worker_view("a"), msgspec.structs.replace(worker_view("c"), prefetched=True)]

    assert {
        "total_accesses": 70,
        "unique_models": 2,
        "history_size": 3,
        "top_models": [["a", 2], ["b", 1]],
        "transition_count": 2,
        "predicted_next": "b",
        "warm_pool": {"enabled": True, "size": 1, "unused": ["c"]},
    } == (await client.get("/admin/predictor")).json()
