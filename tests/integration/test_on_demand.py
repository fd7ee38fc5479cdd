"""Models loaded because requests ask for them, against a running server: real processes, scripted models."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import LiveServer, text_of, wait_until
from tests.support.wire import Wire, chat_request

GIB = 1024**3
LARGE_SHARE = 0.6
"""Of what is free: one such model fits, two do not, whatever else the machine does meanwhile."""
TOGETHER = 6
OPTIONS: dict[str, Any] = {
    "num_ctx": 8192,
    "max_tokens": 3,
    "temperature": 0.1,
    "seed": 7,
    "n": 2,
    "stop": ["never"],
    "keep_alive": "10m",
    "options": {"num_ctx": 16384},
}


SETTINGS = "load_on_demand: true, least_residency_sec: 0.5, warm_spare: false"


@pytest.fixture
def on_demand(serve: Callable[..., LiveServer], tmp_path: Path) -> LiveServer:
    """A server on which requests load models, and one model need not stay for long."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text(f"models: {{{SETTINGS}}}")
    return serve()


def reload(server: LiveServer, models: str) -> None:
    """Other settings for models come into force."""
    (server.home / "config.yaml").write_text(f"models: {{{models}}}")
    assert server.http.post("/admin/config/reload").status_code == 200


def script_large(server: LiveServer, model_id: str, answer: str = "pieces: [here I am]") -> str:
    """A model of which only one fits at a time."""
    budget = server.http.get("/admin/memory").json()["budget"]
    size_bytes = int((budget["limit_gb"] - budget["others_gb"]) * GIB * LARGE_SHARE)
    return server.script(model_id, f"load: {{bytes: {size_bytes}}}\nanswers: [{{{answer}}}]")


def ask_together(server: LiveServer, model_ids: list[str]) -> list[httpx.Response]:
    """One chat for each, all at the same time."""
    with ThreadPoolExecutor(len(model_ids)) as pool, httpx.Client(base_url=server.url, timeout=60.0) as http:
        bodies = [server.chat_body(model_id, f"request {number}") for number, model_id in enumerate(model_ids)]
        return list(pool.map(lambda body: http.post("/v1/chat/completions", json=body), bodies))


def test_requests_have_their_model_loaded_once_and_options_never_have_it_loaded_again(on_demand: LiveServer) -> None:
    """Many ask at once for a model on the disk: one load, all answered. Whatever options a request has, its worker stays."""
    on_demand.script("m", "load: {seconds: 0.5}\nanswers: [{pieces: [fine]}]")
    answers = ask_together(on_demand, ["m"] * TOGETHER)
    pid = on_demand.worker("m")["pid"]
    streamed = text_of(list(on_demand.stream("m", max_tokens=3, n=2, seed=7)))
    for name, value in OPTIONS.items():
        assert on_demand.chat("m", **{name: value}).status_code in (200, 400), name
    unknown = on_demand.chat("mm")

    assert {200} == {answer.status_code for answer in answers}
    worker = on_demand.worker("m")
    assert (worker["pid"], worker["restarts"], worker["on_demand"]) == (pid, 0, True)
    assert "fine" in streamed
    assert on_demand.log().count('"model_loaded"') == 1
    assert (unknown.status_code, "Did you mean 'm'?" in unknown.json()["error"]["message"]) == (404, True)
    assert 'lmx_loads_on_demand_total{model="m"} 1.0' in on_demand.http.get("/admin/metrics").text


def test_two_models_that_do_not_fit_together_take_turns(on_demand: LiveServer) -> None:
    """Requests for both, mixed: each is answered, neither model is evicted while it answers, and an event says for whom."""
    for model_id in ("a", "b"):
        script_large(on_demand, model_id, "pieces: ['on '], tokens: 20, token_seconds: 0.02")
    answers = ask_together(on_demand, ["a", "b"] * 3)
    log = on_demand.log()

    assert {200} == {answer.status_code for answer in answers}, [answer.text for answer in answers]
    assert all(answer.json()["choices"][0]["message"]["content"].count("on") == 20 for answer in answers)
    assert log.count('"model_evicted"') >= 1 and '"cause":"on_demand"' in log
    assert "worker_lost" not in log


def test_who_leaves_while_it_waits_for_room_has_nothing_loaded(on_demand: LiveServer) -> None:
    """While one model is in use, nobody is left who waits for the other: that is not loaded, and the first one goes on."""
    script_large(on_demand, "busy", "contains: long, pieces: ['on '], tokens: 1000000, token_seconds: 0.02}, {pieces: [brief]")
    script_large(on_demand, "other")
    stream = on_demand.stream("busy", "a long one")
    next(payload for payload in stream if '"content":"on ' in payload)
    wire = Wire(on_demand.url)
    wire.send(chat_request(on_demand.chat_body("other", "let me in")))
    wait_until(lambda: on_demand.worker("busy").get("yields_to") == "other", 20.0, "the busy one to make room")
    waiting, deletion = on_demand.worker("other"), on_demand.http.delete("/admin/models/other")
    wire.reset()
    wait_until(lambda: on_demand.worker("busy")["yields_to"] is None, 20.0, "the busy one to go on")
    brief = on_demand.chat("busy", "brief")
    next(stream)
    stream.close()

    assert (waiting["requests_waiting"], waiting["waits_because"]) == (1, "'busy' is in use")
    assert (deletion.status_code, deletion.json()["error"]["code"]) == (409, "model_in_use")
    assert brief.json()["choices"][0]["message"]["content"] == "brief"
    assert '"model_evicted"' not in on_demand.log()


@pytest.mark.live_keys("models.load_on_demand", "models.on_demand_models", "models.least_residency_sec")
def test_each_setting_is_in_force_after_a_reload(on_demand: LiveServer) -> None:
    """Off, and not in the list: 404, which says how to load it. A long residency: 503 at once, with the time to come back."""
    for model_id in ("a", "b"):
        script_large(on_demand, model_id)
    reload(on_demand, "warm_spare: false")
    off = on_demand.chat("a")
    reload(on_demand, "warm_spare: false, load_on_demand: true, on_demand_models: [b*], least_residency_sec: 3600")
    not_listed, listed = on_demand.chat("a"), on_demand.chat("b")
    reload(on_demand, "warm_spare: false, load_on_demand: true, least_residency_sec: 3600")
    too_young = on_demand.chat("a")
    reload(on_demand, "warm_spare: false, load_on_demand: true, least_residency_sec: 0")
    served = on_demand.chat("a")

    assert [404, 404, 200, 503, 200] == [each.status_code for each in (off, not_listed, listed, too_young, served)], served.text
    assert "lmx load a" in off.json()["error"]["message"]
    assert "models.on_demand_models" in not_listed.json()["error"]["message"]
    assert too_young.json()["error"]["code"] == "model_loading"
    assert 3500 < int(too_young.headers["Retry-After"]) <= 3600
