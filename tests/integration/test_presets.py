"""Presets of a running server: from file to answer, at the start, at a load, and through every kind of reload."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.live import LiveServer, wait_until

Serve = Callable[..., LiveServer]

TALKER = """
name: talker
model: m
parameters: {max_tokens: 2}
system_prompt: be brief
routing_alias: chat
auto_load: true
performance: {slots: 3, max_context_length: 1024}
"""


def write(server: LiveServer, name: str, text: str, directory: str = "presets") -> None:
    """Put a preset's file into the home."""
    (server.home / directory).mkdir(exist_ok=True)
    (server.home / directory / f"{name}.yaml").write_text(text)


def reload(server: LiveServer, path: str = "/admin/presets/reload") -> dict[str, Any]:
    """Have the files read again, or the whole configuration; it must succeed."""
    response = server.http.post(path)
    assert response.status_code == 200, response.text
    return dict(response.json())


def names(server: LiveServer) -> list[str]:
    """The presets in force."""
    return [preset["name"] for preset in server.http.get("/admin/presets").json()["presets"]]


def loaded_with(server: LiveServer) -> tuple[int, int]:
    """Slots and context of the loaded model."""
    shown = server.http.get("/admin/models/m/performance").json()
    return shown["slots"], shown["context_length"]


def test_a_preset_from_file_to_answer(serve: Serve) -> None:
    """It says what the request leaves out, how its model is loaded and that the start loads it; an override goes before."""
    server = serve(LMX_MODELS__WARM_SPARE="false")
    server.script("m", "answers: [{echo: true}]")
    unknown = server.chat("preset:talker")
    write(server, "talker", TALKER)
    assert reload(server) == {"success": True, "presets_loaded": 1}

    server.load("m")
    by_preset = loaded_with(server)
    answer = server.chat("preset:talker", "one two three four").json()
    through_alias = server.chat("chat", "one two three four").json()
    server.http.post("/admin/models/unload", json={"model_id": "m"})
    server.load("m", performance_overrides={"slots": 1})
    overridden = loaded_with(server)
    server.stop()
    server.start()
    server.wait_for_state("m", "ready")
    at_the_start = loaded_with(server)
    server.stop()
    server.environment["LMX_MODELS__AUTO_LOAD"] = "[]"
    server.start()
    wait_until(lambda: server.http.get("/admin/status").json()["startup_complete"], 10.0, "the start to be complete")

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (by_preset, overridden, at_the_start) == ((3, 1024), (1, 1024), (3, 1024))
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("m", 2)
    assert answer["usage"]["prompt_tokens"] > through_alias["usage"]["prompt_tokens"], "the system prompt went before"
    assert through_alias["usage"]["completion_tokens"] == 4
    assert server.worker("m") == {}, "safe mode loads nothing"


@pytest.mark.live_keys("presets.directory", "presets.enabled")
def test_what_changes_with_a_reload(serve: Serve) -> None:
    """Files, the directory and the switch; a file that is no preset costs only itself, and operators are told."""
    server = serve()
    write(server, "a", "{name: a, model: m}")
    write(server, "broken", "{name: broken}")
    write(server, "b", "{name: b, model: m}", directory="others")
    config = server.home / "config.yaml"
    seen, updated = [names(server)], []
    for text in ("", f"presets: {{directory: {server.home}/others}}", "presets: {enabled: false}"):
        config.write_text(text)
        updated.append(reload(server, "/admin/config/reload")["updated"])
        seen.append(names(server))

    assert seen == [[], ["a"], ["b"], []]
    assert updated == [["presets"], ["presets.directory", "presets"], ["presets.directory", "presets.enabled", "presets"]]
    assert "preset_skipped" in server.log()
    assert "broken.yaml" in server.log()
