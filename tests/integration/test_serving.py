"""The main job through real processes: load, answer, crash, come back, stop. Scripted models, real deaths."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.support.live import LiveServer, text_of, wait_until

COUNTING = """
answers:
  - pieces: ["one ", "two ", "three ", "four ", "five "]
    tokens: 60
    token_seconds: 0.02
"""


def test_a_model_is_loaded_answers_and_is_unloaded(server: LiveServer) -> None:
    """The whole life of a model over HTTP, with the shapes of the contract."""
    server.script("m", "answers: [{pieces: ['Hel', 'lo']}]")
    loaded = server.load("m")
    assert loaded["success"] is True
    assert loaded["memory_after_load_gb"] > 0
    assert [model["id"] for model in server.http.get("/v1/models").json()["data"]] == ["m"]
    answer = server.chat("m").json()
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["choices"][0]["finish_reason"] == "stop"
    again = server.load("m")
    assert again["time_to_load_ms"] is None
    unloaded = server.http.post("/admin/models/unload", json={"model_id": "m"})
    assert unloaded.json()["success"] is True

    assert server.http.get("/v1/models").json()["data"] == []
    assert server.chat("m").status_code == 404


def test_a_stream_ends_with_done_and_equals_the_unstreamed_answer(server: LiveServer) -> None:
    """Both ways of asking give the same text."""
    server.script("m", "answers: [{pieces: ['a', 'b', 'ü', '🙂'], tokens: 40}]")
    server.load("m")
    payloads = list(server.stream("m"))

    assert payloads[-1] == "[DONE]"
    assert text_of(payloads) == server.chat("m").json()["choices"][0]["message"]["content"]


def test_a_killed_worker_costs_its_own_stream_and_nothing_else(server: LiveServer) -> None:
    """kill -9 in mid-stream: an error event and no [DONE] for its client.

    The other model's stream is byte-identical to an undisturbed run; the killed worker is back without anyone asking, and its
    next request succeeds.
    """
    for name in ("victim", "bystander"):
        server.script(name, COUNTING)
        server.load(name)
    undisturbed = text_of(list(server.stream("bystander")))
    bystander: list[str] = []
    other = threading.Thread(target=lambda: bystander.extend(server.stream("bystander")))
    other.start()
    victim: list[str] = []
    for payload in server.stream("victim"):
        victim.append(payload)
        if len(victim) == 6:
            os.kill(server.worker("victim")["pid"], signal.SIGKILL)
    other.join()

    assert json.loads(victim[-1])["error"]["code"] == "worker_lost"
    assert "[DONE]" not in victim
    assert text_of(bystander) == undisturbed
    assert bystander[-1] == "[DONE]"
    back = server.wait_for_state("victim", "ready")
    assert (back["restarts"], back["last_exit"]["reason"]) == (1, "oom_suspected")
    assert server.chat("victim").status_code == 200


def test_a_request_without_a_token_yet_survives_the_death_of_its_worker(server: LiveServer) -> None:
    """The worker dies in the prefill; the client gets its whole answer from the next one and notices nothing but time."""
    server.script(
        "m",
        """
answers: [{pieces: ["fine"]}]
faults: [{when: request, contains: "fragile", do: kill, lives: 1}]
""",
    )
    server.load("m")
    answer = server.chat("m", "fragile")

    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "fine")
    assert server.worker("m")["restarts"] == 1


def test_a_request_that_kills_every_worker_is_told_so(server: LiveServer) -> None:
    """One replay, then 503 `worker_lost` with a time to come back."""
    server.script("m", 'faults: [{when: request, contains: "poison", do: segfault}]')
    server.load("m")
    answer = server.chat("m", "poison")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "worker_lost"
    assert answer.headers["retry-after"]


def test_a_request_that_crashes_its_model_twice_is_refused_and_the_model_stays(server: LiveServer) -> None:
    """The same request again is 422 `request_crashes_model`, at once; everybody else is served."""
    server.script("m", 'faults: [{when: request, contains: "poison", do: segfault}]')
    server.load("m")
    assert server.chat("m", "poison").status_code == 503
    refused = server.chat("m", "poison")

    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_crashes_model")
    assert server.chat("m", "harmless").status_code == 200


def test_a_model_that_keeps_crashing_is_quarantined_and_the_others_do_not_notice(server: LiveServer) -> None:
    """Three deaths in a row: 409 `model_unstable` from then on; the neighbour answers all the time."""
    server.script("bad", 'faults: [{when: request, contains: "poison", do: abort, line: "GGML_ASSERT(x) failed"}]')
    server.script("good")
    server.load("bad")
    server.load("good")
    for prompt in ("poison a", "poison b"):
        assert server.chat("bad", prompt).status_code == 503
    server.wait_for_state("bad", "quarantined")
    answer = server.chat("bad", "harmless")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_unstable")
    assert "quarantined after instability" in answer.json()["error"]["message"]
    assert server.http.post("/admin/models/load", json={"model_id": "bad"}).status_code == 409
    assert server.chat("good").status_code == 200


@pytest.mark.parametrize("doing", ["idle", "loading", "generating", "holding the GIL"])
def test_nothing_is_left_two_seconds_after_the_supervisor_was_killed(serve: Callable[..., LiveServer], doing: str) -> None:
    """kill -9 of the supervisor takes every worker with it, whatever it is doing."""
    server = serve()
    faults = 'faults: [{when: token, number: 3, contains: "stuck", do: hold_gil}]' if doing == "holding the GIL" else ""
    server.script("m", COUNTING.replace("60", "100000") + faults)
    server.script("slow", "load: {seconds: 60, callbacks: 600}")
    server.load("m")
    client: threading.Thread | None = None
    if doing == "loading":
        client = threading.Thread(target=lambda: _ignoring_the_end(lambda: server.load("slow")))
        client.start()
        server.wait_for_state("slow", "loading")
    elif doing != "idle":
        started = threading.Event()
        client = threading.Thread(target=lambda: _ignoring_the_end(lambda: _read(server, started)))
        client.start()
        assert started.wait(10)
    server.kill()
    server.assert_no_worker_is_left(seconds=2.0)
    if client is not None:
        client.join()


def test_the_server_answers_at_once_while_a_model_loads_and_streams_run(serve: Callable[..., LiveServer]) -> None:
    """Eight streams and a load: /healthz stays within a quarter of a second."""
    server = serve(LMX_MODELS__SLOTS="8")
    server.script("m", COUNTING)
    server.script("slow", "load: {seconds: 2, callbacks: 200}")
    server.load("m")
    work = [threading.Thread(target=lambda: list(server.stream("m"))) for _ in range(8)]
    work.append(threading.Thread(target=lambda: server.load("slow")))
    for thread in work:
        thread.start()
    worst = 0.0
    while any(thread.is_alive() for thread in work):
        began = time.monotonic()
        assert server.http.get("/healthz").status_code == 200
        worst = max(worst, time.monotonic() - began)

    assert worst < 0.25


def test_the_supervisor_is_small(server: LiveServer) -> None:
    """With two models loaded it stays under 80 MB."""
    for name in ("a", "b"):
        server.script(name)
        server.load(name)
        server.chat(name)
    assert server.process is not None

    assert psutil.Process(server.process.pid).memory_info().rss < 80 * 1024**2


def test_a_client_that_goes_away_frees_its_place(server: LiveServer) -> None:
    """Closing the connection in mid-stream cancels the generation."""
    server.script("m", COUNTING.replace("60", "100000"))
    server.load("m")
    stream = server.stream("m")
    next(stream)
    assert server.worker("m")["requests_active"] == 1
    stream.close()

    wait_until(lambda: server.worker("m")["requests_active"] == 0, 2.0, "the cancelled request to end")


def test_a_graceful_stop_lets_streams_end_and_exits_zero(serve: Callable[..., LiveServer]) -> None:
    """SIGTERM in mid-stream: the stream comes to its end, new requests are told to come back, the exit code is 0."""
    server = serve()
    # Long enough for the questions that are asked meanwhile, on any machine.
    server.script("m", COUNTING.replace("60", "250"))
    server.load("m")
    payloads: list[str] = []
    refused = None
    for payload in server.stream("m"):
        payloads.append(payload)
        if len(payloads) == 3:
            assert server.process is not None
            server.remember_workers()
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.http.get("/readyz").status_code == 503, 5.0, "/readyz to say so")
            refused = server.chat("m")

    assert payloads[-1] == "[DONE]"
    assert refused is not None
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert server.stop() == 0


def test_a_second_server_on_the_same_home_leaves_the_first_alone(server: LiveServer) -> None:
    """One line, exit code 1, and the first goes on serving."""
    second = LiveServer(server.home)
    with pytest.raises(AssertionError, match="already running"):
        (server.home / "server.json").rename(server.home / "kept.json")
        second.start()
    assert second.process is not None

    assert second.process.returncode == 1
    assert server.http.get("/healthz").status_code == 200


def _read(server: LiveServer, started: threading.Event) -> None:
    for number, _ in enumerate(server.stream("m", "stuck")):
        if number == 2:
            started.set()


def _ignoring_the_end(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:  # the server is killed under it; how the client notices is not what is tested here
        return
