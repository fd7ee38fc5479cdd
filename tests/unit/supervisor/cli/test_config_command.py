"""`lmx config`, `doctor` and `quarantine` in a terminal of 80 columns, as JSON, and by their exit statuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.cli.checks import Check, Verdict
from lmx_supervisor.cli.commands.doctor import report_lines
from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.core.views import ExitView, ReadinessView
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn, fleet_document, worker

LONG_PATH = "/a/model/that/lies/deep/in/a/directory/of/a/volume/with/a/long/name/and/more.gguf"
TALKATIVE = (
    f"models: {{paths: {{m: {LONG_PATH}}}}}\nrouting: {{aliases: {{code: [mlx-community/Qwen2.5-Coder-32B-Instruct-8bit]}}}}\n"
)


@pytest.fixture
def terminal(lmx: Lmx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout is a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    # Of the class: what stands for stdout in the fixture is another object of it in the test.
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)


def widest(text: str) -> int:
    """The characters of the longest line."""
    return max(map(len, text.splitlines()))


@pytest.mark.usefixtures("terminal")
def test_every_key_fits_eighty_columns(lmx: Lmx, home: Path) -> None:
    """Long values give way; keys and origins stay whole, because they are what one looks for."""
    (home / "config.yaml").write_text(TALKATIVE)
    shown = lmx("config", "show")
    rows = {line.split()[0]: line for line in shown.out.splitlines()[1:]}

    assert (shown.status, widest(shown.out)) == (0, 80)
    assert set(rows) == set(all_keys())
    assert all(row.split()[-1] in ("default", "file") for row in rows.values())
    assert "…" in rows["models.paths"]


def test_into_a_pipe_nothing_is_shortened(lmx: Lmx, home: Path) -> None:
    """What a script reads is whole."""
    (home / "config.yaml").write_text(TALKATIVE)

    assert f'{{"m":"{LONG_PATH}"}}' in lmx("config", "show").out


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (("check",), {"ok": True, "file": "HOME/config.yaml", "remarks": []}),
        (("path",), {"file": "HOME/config.yaml", "exists": True}),
        (("init", "--force"), {"file": "HOME/config.yaml"}),
        (("path", "--config", "other.yaml"), {"file": "other.yaml", "exists": False}),
    ],
)
def test_each_answers_in_json(lmx: Lmx, home: Path, arguments: tuple[str, ...], document: dict[str, object]) -> None:
    """One document, status 0."""
    (home / "config.yaml").write_text("")
    result = lmx("config", *arguments, "--json")

    assert (result.status, json.loads(result.out.replace(str(home), "HOME"))) == (0, document)


def test_without_a_file_the_path_is_where_one_would_be_read(lmx: Lmx, home: Path) -> None:
    """And JSON says that there is none."""
    assert lmx("config", "path").out == f"{home}/config.yaml\n"
    assert json.loads(lmx("config", "path", "--json").out) == {"file": f"{home}/config.yaml", "exists": False}


def test_a_broken_configuration_in_both_forms(lmx: Lmx, home: Path) -> None:
    """One line on stderr with status 1; with `--json` its parts on stdout too. Its path can be asked for all the same."""
    (home / "config.yaml").write_text("server: {prot: 1}")
    said = f"{home}/config.yaml: server.prot: unknown key; did you mean 'server.port'?"
    plain, as_json = lmx("config", "check"), lmx("config", "check", "--json")

    assert (plain.status, plain.out, plain.err) == (1, "", f"error: {said}\n")
    assert (as_json.status, as_json.err) == (1, f"error: {said}\n")
    assert json.loads(as_json.out) == {
        "ok": False,
        "source": f"{home}/config.yaml",
        "key": "server.prot",
        "reason": "unknown key",
        "suggestion": "server.port",
    }
    assert (lmx("config", "show").status, lmx("config", "path").out) == (1, f"{home}/config.yaml\n")


def test_the_server_does_not_start_with_it(home: Path) -> None:
    """`lmx serve` ends at once with the same line and status 1, and leaves the home as it was."""
    file = home / "named.yaml"
    command = [sys.executable, "-m", "lmx_supervisor", "serve", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    reason = "no such file; put it there, or name another one with --config or LMX_CONFIG"

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"lmx serve: {file}: {reason}\n")
    assert list(home.iterdir()) == []


def test_a_doctors_report_fits_eighty_columns() -> None:
    """Findings are shortened in the table; one that needs attention is told whole below it, in lines that fit."""
    reason = "config.yaml: models.queue_per_model: 300 must not exceed models.queue_total (256); lower it, or raise the other"
    found = [
        Check("demo model", Verdict.OK, LONG_PATH),
        Check("config", Verdict.PROBLEM, reason, "the server does not start with this; see: lmx config check"),
        Check("memory", Verdict.WARNING, "1.0G of 2.0G free", "only small models will fit"),
    ]
    lines = report_lines(found, 80)

    assert max(map(len, lines)) <= 80
    assert "…" in lines[1] and "…" in lines[2]
    assert " ".join(line.strip() for line in lines[4:]) == (
        f"problem: config: {reason} problem: config: the server does not start with this; see: lmx config check "
        "warning: memory: only small models will fit"
    )
    assert report_lines(found, None)[4:] == [
        "problem: config: the server does not start with this; see: lmx config check",
        "warning: memory: only small models will fit",
    ]


@pytest.mark.usefixtures("terminal")
def test_the_quarantine_fits_eighty_columns(lmx: Lmx, server: StandIn) -> None:
    """How the worker ended gives way first, then the model's name; the reason stays."""
    bad = worker(
        "mlx-community/Qwen2.5-Coder-32B-Instruct-8bit",
        state=WorkerState.QUARANTINED,
        readiness=ReadinessView(state=Readiness.QUARANTINED, reason="crash_loop:3", crash_count=3),
        last_exit=ExitView(reason="native_crash", text="crashed in native code with SIGSEGV " * 3, at_unix_seconds=0.0),
    )
    server.answer("/admin/workers", fleet_document(bad))
    shown = lmx("quarantine", "--url", server.url)

    assert (shown.status, widest(shown.out)) == (0, 80)
    assert "crash_loop:3" in shown.out
