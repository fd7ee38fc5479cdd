"""The entry: help, usage errors, laziness, and the commands that need no server."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lmx_supervisor.cli.main import COMMANDS
from tests.unit.supervisor.cli.conftest import Lmx


@pytest.mark.parametrize(
    "command", [(name,) for name in COMMANDS if name != "config"] + [("config", "show"), ("config", "init")]
)
def test_every_command_has_help_with_an_example(lmx: Lmx, command: tuple[str, ...]) -> None:
    """`--help` works everywhere and shows how the command is used."""
    result = lmx(*command, "--help")
    assert result.status == 0
    assert "Example: " in result.out
    assert " ".join(("lmx", *command)) in result.out


def test_the_list_of_commands_says_what_each_does(lmx: Lmx) -> None:
    """Every command stands in the help with its name."""
    result = lmx("--help")
    assert result.status == 0
    for name in COMMANDS:
        assert f"│ {name} " in result.out


@pytest.mark.parametrize("arguments", [("frobnicate",), ("load",), ("ps", "--nope"), ("run", "m", "p", "--max-tokens", "0")])
def test_what_cannot_be_meant_is_a_usage_error(lmx: Lmx, arguments: tuple[str, ...]) -> None:
    """Unknown commands and options, missing and impossible values end with status 2."""
    assert lmx(*arguments).status == 2


def test_a_mistyped_address_is_a_usage_error(lmx: Lmx) -> None:
    """It is found before anything is asked for."""
    assert lmx("ps", "--url", "localhost").status == 2


def test_the_version_is_the_installed_one(lmx: Lmx) -> None:
    """`--version` answers in one line."""
    assert lmx("--version").out.startswith("lmx 0.")


def test_serve_brings_in_no_client_library(home: Path) -> None:
    """The process that becomes the supervisor carries neither the HTTP client nor the terminal libraries."""
    program = """
import sys
from lmx_supervisor.cli.main import main
import lmx_supervisor.serve
lmx_supervisor.serve.run = lambda options: print(options) or 7
try:
    main(["serve", "--demo", "--port", "0", "--log-level", "debug", "--model", "a.gguf", "--model", "b.gguf"])
except SystemExit as left:
    heavy = {"rich", "httpx", "textual", "pygments"} & {name.split(".")[0] for name in sys.modules}
    sys.exit(f"imported {heavy}" if heavy else left.code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    assert "flags={'server.port': 0, 'logging.level': 'DEBUG'}" in done.stdout
    assert "demo=True, models=('a.gguf', 'b.gguf')" in done.stdout


def test_a_new_config_file_is_private_and_changes_nothing(lmx: Lmx, home: Path) -> None:
    """`config init` writes a file that loads as the defaults, readable by its owner only, and never over another."""
    path = home / "config.yaml"
    assert lmx("config", "path").out.strip() == str(path)
    assert lmx("config", "init").out.strip() == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lmx("config", "check").out == f"ok: {path}\n"
    again = lmx("config", "init")
    assert again.status == 1
    assert "--force" in again.err
    path.write_text("broken: [")
    assert lmx("config", "init", "--force").status == 0
    assert lmx("config", "check", "--json").status == 0


def test_config_show_tells_values_and_where_they_come_from(lmx: Lmx, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key has its value and origin; secrets stay unsaid in both forms."""
    (home / "config.yaml").write_text("server: {port: 8080}\nsecurity: {admin_key: hush}\n")
    monkeypatch.setenv("LMX_LOGGING__LEVEL", "DEBUG")
    shown = lmx("config", "show")
    lines = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines()}
    assert lines["server.port"] == ["8080", "file"]
    assert lines["logging.level"] == ['"DEBUG"', "environment"]
    document = json.loads(lmx("config", "show", "--json").out)
    assert {"key": "server.port", "value": 8080, "origin": "file"} in document
    assert "hush" not in shown.out + json.dumps(document)


def test_a_broken_config_is_one_line(lmx: Lmx, home: Path) -> None:
    """File, key and reason, status 1."""
    (home / "config.yaml").write_text("server: {prot: 8080}\n")
    result = lmx("config", "check")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert "prot" in result.err
    assert "port" in result.err


def test_doctor_looks_at_everything_and_finds_what_is_wrong(lmx: Lmx, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check has its line; a home that is a file and a configuration that does not load are problems with advice."""
    occupied = home / "occupied"
    occupied.write_text("")
    monkeypatch.setenv("LMX_HOME", str(occupied))
    monkeypatch.setenv("LMX_SERVER__PORT", "many")
    result = lmx("doctor")
    assert result.status == 1
    lines = result.out.splitlines()
    for name in ("python", "port", "open files", "socket path", "memory", "demo model", "backend llamacpp", "backend mlx"):
        assert any(line.startswith(f"{name}  ") for line in lines)
    verdicts = {line.split()[0]: line.split()[1] for line in lines}
    assert (verdicts["python"], verdicts["home"], verdicts["config"]) == ("ok", "problem", "problem")
    assert any(line.startswith("backend scripted") and " ok " in line for line in lines)
    assert f"{occupied} is no directory" in result.out
    assert "LMX_SERVER__PORT" in result.out
    assert "problem: home: make it writable" in result.out
