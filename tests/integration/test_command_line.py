"""Every command of `lmx` against a running service, in a terminal of eighty columns and as JSON."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest

from lmx_supervisor.cli.main import COMMANDS, main
from tests.support.live import LiveServer, wait_until

MODEL = "a-model-with-the-long-name-that-coders-like-to-give-instruct-q4_k_m"
EMBEDDER = "reader"
PRESET = "an-assistant-with-a-long-name-that-helps-with-code"
CONFIG = """
models: {{warm_spare: false}}
routing: {{aliases: {{code: [{model}]}}}}
"""
FAULT = "faults: [{when: request, contains: die, do: abort, line: 'GGML_ASSERT(n > 0) failed'}]"
DESCRIPTION = "Writes code and explains it in one sentence, as long as that sentence may have to be."

EVERYTHING: tuple[tuple[str, ...], ...] = (
    ("run", MODEL, "hello", "--max-tokens", "4"),
    ("embed", EMBEDDER, "a cat"),
    ("logs", MODEL),
    ("status",),
    ("ps",),
    ("top", "--once"),
    ("ls",),
    ("load", MODEL),
    ("bench", MODEL, "--runs", "1", "--max-tokens", "4"),
    ("bench", MODEL, "--runs", "1", "--max-tokens", "50", "--keep"),
    ("tune", MODEL, "--try", "slots=2", "--runs", "1", "--max-tokens", "4", "--concurrency", "1"),
    ("restart", MODEL),
    ("probe", MODEL),
    ("quantize", "list"),
    ("quarantine",),
    ("prefixes",),
    ("prefixes", "clear", "--all"),
    ("crashes",),
    ("presets",),
    ("presets", "show", PRESET),
    ("presets", "reload"),
    ("events", "--requests"),
    ("logs",),
    ("config", "reload"),
    ("unload", MODEL),
    ("rm", MODEL),
)
"""In an order in which each has something to do or to show."""
AS_LONG_AS_IT_IS = frozenset({"run", "embed", "load", "restart", "presets show", "events", "logs", "unload", "rm"})
"""What models, workers and events say, whole values, and sentences about a model: no tables."""
IN_A_PROCESS = frozenset({"tune"})
"""It leaves what shows its progress to the end of its process."""
ONE_LINE_EACH = (("events", "--requests"), ("logs", MODEL))
"""One JSON document a line, as it happens."""
ONLY_ONCE = frozenset({"unload", "rm"})
NOT_HERE = {
    "serve": "it is what the others talk to",
    "pull": "needs a hub: tests/integration/test_downloads.py, tests/unit/supervisor/cli/test_pull.py",
    "chat": "a conversation has no JSON: tests/unit/supervisor/cli/test_talking.py",
    "doctor": "talks to no server: tests/unit/supervisor/cli/test_checks.py",
}


class Terminal(io.StringIO):
    """What thinks that it is one."""

    def isatty(self) -> bool:
        """Like a terminal."""
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service with a model that has crashed once, one that reads, and a preset."""
    home = tmp_path_factory.mktemp("commands") / "home"
    (home / "presets").mkdir(parents=True)
    (home / "config.yaml").write_text(CONFIG.format(model=MODEL))
    preset = f"name: {PRESET}\nmodel: {MODEL}\nrouting_alias: code\ndescription: {DESCRIPTION}\n"
    (home / "presets" / "one.yaml").write_text(preset)
    started = LiveServer(home)
    started.script(MODEL, FAULT)
    started.script(EMBEDDER, "tasks: [embed]")
    started.start()
    try:
        started.load(MODEL)
        started.load(EMBEDDER)
        started.chat(MODEL, "die")
        started.chat(MODEL, "die")
        wait_until(lambda: len(started.http.get("/admin/crashes").json()["crashes"]) > 0, 30, "the crash bundle")
        started.wait_for_state(MODEL, "ready")
        yield started
        assert started.stop() == 0, started.log()
    finally:
        started.abandon()


@pytest.fixture(autouse=True)
def at_the_terminal(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the server and are eighty columns wide."""
    for name in ("LMX_ADMIN_KEY", "LMX_API_KEY", "LMX_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LMX_HOME", str(server.home))
    monkeypatch.setenv("LMX_URL", server.url)
    monkeypatch.setenv("COLUMNS", "80")


def said(*command: str) -> str:
    """What a command that succeeds prints in a terminal."""
    if command[0] in IN_A_PROCESS:
        return said_by_a_process(*command)
    screen = Terminal()
    with redirect_stdout(screen):
        try:
            status = main(command)
        except SystemExit as left:
            status = int(left.code or 0)
    assert status == 0, (command, screen.getvalue())
    return screen.getvalue()


def said_by_a_process(*command: str) -> str:
    """The same of a command of its own."""
    controller, terminal = pty.openpty()
    try:
        # A few lines: they fit into what the terminal holds for its reader.
        subprocess.run([sys.executable, "-m", "lmx_supervisor", *command], stdout=terminal, check=True, timeout=120)
        return os.read(controller, 65536).decode().replace("\r\n", "\n")
    finally:
        os.close(controller)
        os.close(terminal)


def test_every_command_fits_eighty_columns_and_speaks_json(server: LiveServer) -> None:
    """No line of a table is longer, with long names and a crash to show; with `--json` every command prints JSON."""
    too_long = []
    for command in EVERYTHING:
        text = said(*command)
        assert text.strip(), command
        if not {command[0], " ".join(command[:2])} & AS_LONG_AS_IT_IS:
            too_long += [(command, line) for line in text.splitlines() if len(line) > 80]
        if command[0] not in ONLY_ONCE:
            document = said(*command, "--json")
            parts = document.splitlines() if command in ONE_LINE_EACH else [document]
            assert [json.loads(part) for part in parts], command
    assert too_long == []
    assert not list((server.home / "models").glob(f"{MODEL}*"))


def test_what_can_only_be_done_once_speaks_json_too(server: LiveServer) -> None:
    """`unload`, `rm` and the report of one crash."""
    server.load(server.script("once"))
    crash = server.http.get("/admin/crashes").json()["crashes"][0]["crash_id"]
    for command in (("unload", "once"), ("rm", "once"), ("crashes", "show", crash)):
        assert json.loads(said(*command, "--json")), command


def test_no_command_is_forgotten() -> None:
    """Each is walked here, or it is said where else it is shown."""
    assert {command[0] for command in EVERYTHING} | set(NOT_HERE) == set(COMMANDS)
