"""No key is anywhere but where its operator wrote it: a busy, crashing, misconfigured service is searched for all of them."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.live import LiveServer, wait_until

ADMIN, SHARED, ALICE, BOB, NEW, HUB = (
    f"sk-{name}-d41d8cd98f00b204" for name in ("admin", "shared", "alice", "bob", "new", "hub")
)
MISPLACED = "sk-misplaced-e9800998ecf8427e"
"""Never configured: it stands in files that cannot be used."""
SECRETS = (ADMIN, SHARED, ALICE, BOB, NEW, HUB, MISPLACED)

CONFIG = """
security:
  inference_api_key: {shared}
  inference_keys:
    alice: {{key: {alice}, requests_per_minute: 1000}}
    bob: {{key_file: {bob_file}}}
logging: {{level: DEBUG, file: {log_file}}}
journaling: {{enabled: true}}
"""
BAD_CONFIGS = (
    f"security: {{inference_api_key: [{MISPLACED}]}}",
    f"security: {{inference_api_key: '{MISPLACED} {MISPLACED}'}}",
    f"security: {{inference_keys: {{alice: {{key: {MISPLACED}, models: 5}}}}}}",
    f"security: {{inference_keys: {{alice: {MISPLACED}}}}}",
    f"security: {{inference_api_key: {MISPLACED}: {MISPLACED}}}",
    f"security: {{inference_api_key: {MISPLACED}}}\nserver: {{port: many}}",
)
READ = (
    "/admin/workers", "/admin/status", "/admin/health", "/admin/memory", "/admin/models", "/admin/crashes",
    "/admin/diagnostics", "/admin/metrics", "/admin/metrics/json", "/admin/models/compatibility",
    "/admin/events?follow=false&last_event_id=0", "/admin/logs/sessions", "/admin/logs/updates", "/v1/discovery",
    "/openapi.json", "/readyz",
)  # fmt: skip


@pytest.fixture
def server(serve: Callable[..., LiveServer], tmp_path: Path) -> LiveServer:
    """A server that logs everything it can, with keys of every kind."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "bob.key").write_text(f"{BOB}\n")
    text = CONFIG.format(shared=SHARED, alice=ALICE, bob_file=home / "bob.key", log_file=home / "lmx.log")
    (home / "config.yaml").write_text(text)
    server = serve(LMX_SECURITY__ADMIN_KEY=ADMIN, HF_TOKEN=HUB)
    server.http.headers["X-Admin-Key"] = ADMIN
    return server


def test_no_key_is_anywhere(server: LiveServer) -> None:
    """Not in logs, events, metrics, bundles, journals, state, answers, `ps` and workers' environments; files are private."""
    answers = _live(server)
    answers += [text for path in READ for text in [server.http.get(path).text]]
    crash = server.http.get("/admin/crashes").json()["crashes"][0]["crash_id"]
    answers.append(server.http.get(f"/admin/crashes/{crash}").text)
    answers += _misconfigured(server)
    told = _told_by_the_command_line(server)
    processes = _seen_of_processes(server)
    server.stop()

    found = {
        "answers": _found_in("\n".join(answers)),
        "command line": _found_in(told),
        "processes": _found_in(processes),
        **{str(path): _found_in(path.read_bytes().decode(errors="replace")) for path in _written(server)},
    }
    assert {place: secrets for place, secrets in found.items() if secrets} == {}
    assert "[redacted]" in server.log(), "the keys came by where they had to be struck out"
    for place, text in {"log": server.log(), "events": "\n".join(answers), "journal": _event_lines(server)}.items():
        assert '"caller":"alice"' in text, f"the name is what stands for a key in the {place}"
    assert _open_to_others(server) == []


def _event_lines(server: LiveServer) -> str:
    """The journal of events."""
    return "".join(path.read_text() for path in _written(server) if path.name.endswith("-events.jsonl"))


def _open_to_others(server: LiveServer) -> list[str]:
    """What the service made and others than its owner may read."""
    return [
        str(path.relative_to(server.home))
        for path in _written(server)
        if path != server.log_path and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def _live(server: LiveServer) -> list[str]:
    """Requests with every key, keys where they do not belong, a crash with keys in the prompt, a new key; what was answered."""
    server.script("m", 'faults: [{when: request, contains: "die", do: abort, line: "GGML_ASSERT(n > 0) failed"}]')
    server.load("m")
    answers = []
    for key in (SHARED, ALICE, BOB, ADMIN, "sk-wrong"):
        http = server.http
        answers.append(http.get(f"/v1/models/{key}", headers={"Authorization": f"Bearer {key}", "X-Admin-Key": ""}).text)
        answers.append(http.get(f"/admin/events?follow=false&admin_key={key}").text)
        answers.append(http.post("/v1/nothing", headers={"X-Api-Key": key, "X-Request-ID": key, "User-Agent": key}).text)
    body = server.chat_body("m", f"hello {ALICE}")
    # The model may repeat what it was told to who told it.
    server.http.post("/v1/chat/completions", json=body, headers={"X-Api-Key": ALICE, "X-Admin-Key": ""})
    server.chat("m", f"die {ALICE} {BOB}")
    wait_until(lambda: bool(server.http.get("/admin/crashes").json()["crashes"]), 10.0, "the crash bundle")
    config = server.home / "config.yaml"
    config.write_text(config.read_text().replace(SHARED, NEW))
    answers.append(server.http.post("/admin/config/reload").text)
    answers.append(server.http.get(f"/v1/models/{NEW}", headers={"X-Api-Key": NEW}).text)
    # A model's own id comes back to who asked for it: that is no secret of the service's told to others.
    return [text for text in answers if "is not loaded" not in text]


def _misconfigured(server: LiveServer) -> list[str]:
    config = server.home / "config.yaml"
    good = config.read_text()
    answers = []
    for bad in BAD_CONFIGS:
        config.write_text(bad)
        response = server.http.post("/admin/config/reload")
        assert response.status_code == 400, bad
        answers.append(response.text)
    config.write_text(good)
    return answers


def _told_by_the_command_line(server: LiveServer) -> str:
    """`lmx config show` with a good file, and `check` with a bad one."""
    environment = {**os.environ, "LMX_HOME": str(server.home), "LMX_SECURITY__ADMIN_KEY": ADMIN}
    told = ""
    commands = [("config", "show"), ("config", "show", "--json")]
    for number, bad in enumerate(BAD_CONFIGS[2:3]):
        file = server.home / "models" / f"bad-{number}.yaml"
        file.write_text(bad)
        commands.append(("config", "check", "--config", str(file)))
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "lmx_supervisor", *command], env=environment, capture_output=True, text=True, check=False
        )
        told += done.stdout + done.stderr
    assert "[redacted]" in told
    return told


def _seen_of_processes(server: LiveServer) -> str:
    """What `ps` shows of the server and its workers, and the environment of the workers."""
    workers = server.remember_workers()
    assert workers
    commands = [json.dumps(psutil.Process(pid).cmdline()) for pid in (server.pid, *(worker.pid for worker in workers))]
    return "\n".join(commands + [json.dumps(worker.environ()) for worker in workers])


def _written(server: LiveServer) -> Iterator[Path]:
    """Everything in the home but what its operator wrote there himself, and what the test did in his place."""
    own = {server.home / "config.yaml", server.home / "bob.key"}
    for path in server.home.rglob("*"):
        if path.is_file() and path not in own and server.home / "models" not in path.parents:
            yield path


def _found_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]
