"""`lmx run` and `lmx chat` against a server that answers as told."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import Reply, StandIn, chunk, event, fleet_document, whole_answer

CHAT = "/v1/chat/completions"
NOT_LOADED = {"error": {"message": "Model 'tiny' is not loaded.", "type": "x", "param": "model", "code": "model_not_found"}}


def endless(stop: threading.Event) -> Iterator[bytes]:
    """An answer that says something and then keeps its reader waiting."""
    yield chunk("Once")
    stop.wait(60)


def test_run_streams_the_answer(lmx: Lmx, server: StandIn) -> None:
    """The text goes to stdout with a newline at its end, the speed to stderr, the settings to the server."""
    server.answer(CHAT, iter(whole_answer("Par", "is.")))
    result = lmx("run", "tiny", "Capital?", "--system", "Be brief.", "--temperature", "0", "-v", "--url", server.url)
    assert (result.status, result.out) == (0, "Paris.\n")
    assert result.err.startswith("[20 prompt tokens (5 cached), first text after ")
    [body] = server.bodies(CHAT)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital?"}]
    assert (body["model"], body["stream"], body["temperature"]) == ("tiny", True, 0)
    assert "max_tokens" not in body


@pytest.mark.parametrize("name", ["auto", "preset:coder"])
def test_a_name_that_is_no_model_is_not_loaded(lmx: Lmx, server: StandIn, name: str) -> None:
    """The server knows what would serve it, and says so."""
    server.refuse(CHAT, 404, "model_not_found", "No model is loaded.")
    result = lmx("run", name, "hi", "--url", server.url)
    assert (result.status, result.err) == (1, "error: No model is loaded. (model_not_found)\n")
    assert server.bodies("/admin/models/load") == []


def test_run_json_is_one_document(lmx: Lmx, server: StandIn) -> None:
    """Text, reason and figures together, and nothing else on stdout."""
    server.answer(CHAT, iter(whole_answer("Par", "is.")))
    document = json.loads(lmx("run", "tiny", "Capital?", "--json", "--url", server.url).out)
    assert (document["text"], document["finish_reason"], document["completion_tokens"]) == ("Paris.", "stop", 2)


def test_run_reads_the_prompt_from_stdin(lmx: Lmx, server: StandIn) -> None:
    """A prompt of `-` is all of stdin."""
    server.answer(CHAT, iter(whole_answer("ok")))
    assert lmx("run", "tiny", "-", "--url", server.url, stdin="one\ntwo\n").status == 0
    assert server.bodies(CHAT)[0]["messages"][0]["content"] == "one\ntwo\n"
    assert lmx("run", "tiny", "-", "--url", server.url, stdin=" \n").status == 2


def test_run_loads_a_model_that_is_not_served(lmx: Lmx, server: StandIn) -> None:
    """Asked for a model on disk, `run` has it loaded and asks again."""
    replies: Iterator[Reply] = iter([(404, NOT_LOADED), (200, iter(whole_answer("Hi")))])
    server.routes[CHAT] = lambda _: next(replies)
    server.answer("/admin/stack", {"roles": {}})
    server.answer("/admin/models/load", {"success": True, "model_id": "tiny"})
    server.answer("/admin/workers", fleet_document())
    result = lmx("run", "tiny", "Hello", "--url", server.url)
    assert (result.status, result.out) == (0, "Hi\n")
    assert server.bodies("/admin/models/load") == [{"model_id": "tiny"}]


@pytest.mark.parametrize(("on_disk", "loaded"), [(["big", "tiny"], "tiny"), (["big"], None)])
def test_run_loads_what_an_alias_stands_for(lmx: Lmx, server: StandIn, on_disk: list[str], loaded: str | None) -> None:
    """The first of its models that is on the disk; with none there, the server's words say which would do."""
    refused = {"error": {**NOT_LOADED["error"], "message": "No model that 'code' stands for is loaded: 'gone', 'tiny'."}}
    replies: Iterator[Reply] = iter([(404, refused), (200, iter(whole_answer("Hi")))])
    server.routes[CHAT] = lambda _: next(replies)
    server.answer("/admin/stack", {"roles": {"code": {"preferences": ["gone", "tiny"], "resolved_model": None}}})
    server.answer("/admin/models/available", [{"repo_id": model_id, "size_bytes": 1} for model_id in on_disk])
    server.answer("/admin/models/load", {"success": True, "model_id": "tiny"})
    server.answer("/admin/workers", fleet_document())
    result = lmx("run", "code", "Hello", "--url", server.url)

    orders = server.bodies("/admin/models/load")
    if loaded is not None:
        assert (result.status, result.out, orders) == (0, "Hi\n", [{"model_id": loaded}])
    else:
        assert (result.status, orders) == (1, [])
        assert result.err.startswith("error: No model that 'code' stands for is loaded: 'gone', 'tiny'.")


def test_run_without_the_admin_key_says_that_the_model_is_not_loaded(lmx: Lmx, server: StandIn) -> None:
    """A user who may not load is told about the model, not about a key they never gave."""
    server.answer(CHAT, NOT_LOADED, 404)
    server.refuse("/admin/stack", 403, "invalid_admin_key", "Invalid or missing admin key")
    result = lmx("run", "tiny", "Hello", "--api-key", "k", "--url", server.url)
    assert (result.status, result.err) == (1, "error: Model 'tiny' is not loaded. (model_not_found)\n")


LOST = event('{"error": {"message": "The worker died.", "type": "server_error", "param": null, "code": "worker_lost"}}')


@pytest.mark.parametrize(
    ("ending", "words"), [(b"", "error: the answer was cut off"), (LOST, "error: The worker died. (worker_lost)")]
)
def test_an_answer_that_breaks_off_is_a_failure(lmx: Lmx, server: StandIn, ending: bytes, words: str) -> None:
    """What came is printed and ended with a newline; the status is 1 and the last line says why."""
    server.answer(CHAT, iter([chunk("Once upon"), ending]))
    result = lmx("run", "tiny", "Tell", "--url", server.url)
    assert (result.status, result.out) == (1, "Once upon\n")
    assert result.err.startswith(words)


def test_chat_remembers_and_forgets(lmx: Lmx, server: StandIn) -> None:
    """Each turn carries the ones before it until /clear; /exit ends the conversation."""
    server.routes[CHAT] = lambda body: (200, iter(whole_answer(f"answer {len(body['messages'])}")))
    server.answer("/readyz", {"status": "ready"})
    result = lmx("chat", "tiny", "--url", server.url, stdin="one\n\ntwo\n/clear\nthree\n/exit\nfour\n")
    assert (result.status, result.out) == (0, "answer 1\nanswer 3\nanswer 1\n")
    said = [[message["content"] for message in body["messages"]] for body in server.bodies(CHAT)]
    assert said == [["one"], ["one", "answer 1", "two"], ["three"]]


def test_a_piped_chat_ends_with_its_first_failure(lmx: Lmx, server: StandIn) -> None:
    """A script must see that its question was not answered."""
    server.answer("/readyz", {"status": "ready"})
    server.refuse(CHAT, 503, "overloaded", "Try later.")
    result = lmx("chat", "tiny", "--url", server.url, stdin="one\ntwo\n")
    assert (result.status, result.err) == (1, "error: Try later. (overloaded)\n")
    assert len(server.bodies(CHAT)) == 1


def start(home: Path, *arguments: str, **streams: Any) -> "subprocess.Popen[bytes]":
    """`lmx` as a process of its own, for what needs a terminal or a signal."""
    environment = {**os.environ, "LMX_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-m", "lmx_supervisor", *arguments], env=environment, **streams)


def test_ctrl_c_ends_run_with_its_own_status(server: StandIn, home: Path) -> None:
    """An interrupted answer ends at once, with status 130 and without a traceback."""
    stop = threading.Event()
    server.answer(CHAT, endless(stop))
    pipe = subprocess.PIPE
    with start(home, "run", "tiny", "Tell", "--url", server.url, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"Once"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    stop.set()


def test_ctrl_c_in_a_chat_stops_the_answer_only(server: StandIn, home: Path) -> None:
    """The conversation goes on, with what had been said as part of it, until Ctrl-D."""
    stop = threading.Event()
    answers = iter([endless(stop), iter(whole_answer("The end."))])
    server.routes[CHAT] = lambda _: (200, next(answers))
    server.answer("/readyz", {"status": "ready"})
    controller, terminal = pty.openpty()
    pipe = subprocess.PIPE
    try:
        with start(home, "chat", "tiny", "--url", server.url, stdin=terminal, stdout=pipe, stderr=pipe) as process:
            assert process.stdout is not None
            os.write(controller, b"Tell\n")
            assert process.stdout.read(len(b">>> Once")) == b">>> Once"
            process.send_signal(signal.SIGINT)
            assert process.stdout.read(len(b"\n>>> ")) == b"\n>>> "
            os.write(controller, b"And?\n")
            assert process.stdout.read(len(b"The end.\n>>> ")) == b"The end.\n>>> "
            os.write(controller, b"\x04")
            assert process.wait(30) == 0
    finally:
        stop.set()
        os.close(controller)
        os.close(terminal)
    contents = [message["content"] for message in server.bodies(CHAT)[1]["messages"]]
    assert contents == ["Tell", "Once", "And?"]
