"""A model that is likely to be wanted next is there before anybody asks, and what led to that outlives a restart."""

import json
from collections.abc import Callable

from tests.support.live import LiveServer, wait_until


def test_what_was_learned_in_one_run_prefetches_in_the_next(serve: Callable[..., LiveServer]) -> None:
    """The habit is on the disk after a stop; the next run loads what follows from it, once a reload has switched that on."""
    server = serve(LMX_MODELS__WARM_SPARE="false")
    server.script("a")
    server.script("b")
    for model_id in "abab":
        server.load(model_id)
        server.http.post("/admin/models/unload", json={"model_id": model_id})
    server.stop()
    saved = json.loads((server.home / "predictor.json").read_text())

    server.start()
    server.load("a")
    before = server.http.get("/admin/predictor").json()
    config = "models: {warm_pool_enabled: true, prefetch_interval_sec: 30}"
    (server.home / "config.yaml").write_text(config)
    server.http.post("/admin/config/reload").raise_for_status()
    wait_until(lambda: server.worker("b").get("state") == "ready", 60.0, "b to be prefetched")
    unused = server.http.get("/admin/predictor").json()["warm_pool"]["unused"]
    answer = server.chat("b", max_tokens=1)

    assert (saved["history"], saved["total_accesses"]) == (["a", "b", "a", "b"], 4)
    assert (before["predicted_next"], before["total_accesses"], before["warm_pool"]["enabled"]) == ("b", 5, False)
    assert (unused, answer.status_code) == (["b"], 200)
    assert server.http.get("/admin/predictor").json()["warm_pool"]["unused"] == []
    assert "model_prefetched" in server.log()
