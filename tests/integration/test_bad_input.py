"""Bad input gets a clear 4xx in the contract's envelope, never a 500 or a hang, and the service goes on."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import LiveServer
from tests.support.mlx_models import smollm2_gguf

MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER_SECONDS_MAX = 5.0


def _chat(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES, **changes}).encode()


BAD_CHATS: dict[str, tuple[bytes, int, str | None]] = {
    "malformed JSON": (b'{"model": "m", ', 400, None),
    "not an object": (b"[]", 400, None),
    "empty": (b"", 400, None),
    "wrong type of model": (_chat(model=7), 400, "model"),
    "wrong type of messages": (_chat(messages="hello"), 400, "messages"),
    "wrong type of temperature": (_chat(temperature="hot"), 400, "temperature"),
    "unknown model": (_chat(model="ghost"), 404, None),
    "hostile model": (_chat(model="../../etc/passwd"), 404, None),
    "no messages": (_chat(messages=[]), 400, "messages"),
    "negative max_tokens": (_chat(max_tokens=-1), 400, "max_tokens"),
    "huge n": (_chat(n=10**9), 400, "n"),
    "invalid UTF-8": (b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, None),
    "20 MB": (_chat(messages=[{"role": "user", "content": "x" * 20 * 1024**2}]), 413, None),
    "a tool without a name": (_chat(tools=[{"type": "function", "function": {}}]), 400, "tools.0.function.name"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all bad requests, with one model and no spare that would come to be meanwhile."""
    running = LiveServer(tmp_path_factory.mktemp("served") / "home", environment={"LMX_MODELS__WARM_SPARE": "false"})
    try:
        running.start().load(running.script("m"))
        yield running
        assert running.stop() == 0, running.log()
    finally:
        running.abandon()


@pytest.mark.parametrize("name", BAD_CHATS)
def test_a_bad_chat_request_is_told_what_is_wrong(served: LiveServer, name: str) -> None:
    """The status, the four keys of the envelope, the field at fault; and the next good request is served."""
    body, status, param = BAD_CHATS[name]
    began = time.monotonic()
    response = served.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})

    assert time.monotonic() - began < ANSWER_SECONDS_MAX
    assert response.status_code == status, response.text
    _assert_envelope(response, param)
    assert served.chat("m").status_code == 200


def test_files_that_are_no_models_are_refused_for_what_they_are(server: LiveServer, tmp_path: Path) -> None:
    """Not a model, missing, truncated, an MLX directory without weights: each is named; nothing is spawned or registered."""
    text = tmp_path / "notes.gguf"
    text.write_text("these are notes")
    truncated = tmp_path / "truncated.gguf"
    with smollm2_gguf().open("rb") as source, truncated.open("wb") as target:
        target.write(source.read(50_000_000))
    bare = tmp_path / "bare-mlx"
    bare.mkdir()
    (bare / "config.json").write_text('{"model_type": "llama"}')
    refusals = {
        str(text): (422, "model_unsupported_backend"),
        str(tmp_path / "missing.gguf"): (404, "model_not_found"),
        str(truncated): (409, "model_incomplete"),
        str(bare): (409, "model_incomplete"),
    }
    for path, expected in refusals.items():
        response = server.http.post("/admin/models/load", json={"model_id": "x", "path": path})
        _assert_envelope(response, None, check_param=False)
        assert (response.status_code, response.json()["error"]["code"]) == expected, response.text

    assert server.http.get("/admin/workers").json()["workers"] == []
    assert server.http.get("/admin/models/available").json() == []


@pytest.mark.real
def test_a_gguf_with_a_broken_inside_costs_a_worker_and_is_refused(server: LiveServer, tmp_path: Path) -> None:
    """Header and size are right, the metadata is not: the worker finds out, the operator is told, the service goes on."""
    broken = tmp_path / "broken.gguf"
    shutil.copy(smollm2_gguf(), broken)
    data = broken.read_bytes()
    at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    with broken.open("r+b") as file:
        file.seek(at)
        file.write(b"zzzzz")
    response = server.http.post("/admin/models/load", json={"model_id": "broken", "path": str(broken)})

    assert response.status_code in (409, 422), response.text
    _assert_envelope(response, None, check_param=False)
    assert server.http.get("/healthz").status_code == 200


def _assert_envelope(response: httpx.Response, param: str | None, *, check_param: bool = True) -> None:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    if check_param:
        assert error["param"] == param
