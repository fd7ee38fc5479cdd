"""The run of everything: no directory forgotten, what is said and returned, and an interrupt that ends all of it in order."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.everything import INTERRUPTED, ROOT, WAVES, commands
from tests.support.live import wait_until

# The plugins would take each of these small runs seconds to bring in.
_ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_RUN = "import json, sys; from tests.everything import run; sys.exit(run(json.loads(sys.argv[1])))"
_MARK = "@pytest.mark." + "alone"
_PASSES = "def test_good():\n    assert True\n"
_FAILS = "def test_bad():\n    assert 'apples' == 'pears'\n"
_WAITS = """
import pathlib, signal, threading
def test_endless(request):
    request.addfinalizer(lambda: pathlib.Path(__file__).with_suffix('.ended').touch())
    pathlib.Path(__file__).with_suffix('.started').touch()
    threading.Event().wait()
"""


def waves_of(directory: Path, *waves: dict[str, str]) -> str:
    """Waves of groups, each the pytest of one file with this text."""
    found = []
    for wave in waves:
        for name, text in wave.items():
            (directory / f"test_{name}.py").write_text(text)
        found.append(
            {
                name: [sys.executable, "-m", "pytest", "--rootdir", str(directory), str(directory / f"test_{name}.py")]
                for name in wave
            }
        )
    return json.dumps(found)


def test_every_test_is_in_one_group() -> None:
    """All that there is runs, and once: side by side, or alone where it is marked so. What `bench` measures is no test."""
    files = [(path.relative_to(ROOT / "tests").parts[0], path) for path in (ROOT / "tests").rglob("test_*.py")]
    marked = {directory for directory, path in files if _MARK in path.read_text()}
    *side_by_side, last = WAVES
    together = [directory for wave in side_by_side for directories in wave.values() for directory in directories]
    assert sorted(together) == sorted({directory for directory, _ in files} - {"fault"})
    assert [sorted(directories) for directories in last.values()] == [sorted(marked | {"fault"})]
    for wave in WAVES:
        for name, command in commands(wave).items():
            chosen = command[command.index("pytest") :]
            assert [part for part in chosen if part.startswith("tests/")] == [f"tests/{directory}" for directory in wave[name]]
            assert chosen[chosen.index("-m") + 1] == ("alone" if wave is last else "not alone")


def test_failures_stand_at_the_end_and_the_exit_status_tells_of_them(tmp_path: Path) -> None:
    """Each group says how it ended when it does; a failure does not keep the next wave from running."""
    waves = waves_of(tmp_path, {"one": _FAILS, "two": _PASSES}, {"three": _PASSES})
    done = subprocess.run(
        [sys.executable, "-c", _RUN, waves], env=_ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )
    live, _, report = done.stdout.partition("\none\n")

    assert done.returncode == 1, done.stderr
    for closing in ("one | 1 failed", "two | 1 passed", "three | 1 passed"):
        assert live.count(closing) == 1, live
    assert "apples" not in live
    assert "'apples' == 'pears'" in report
    assert report.index("apples") < report.index("\ntwo\n") < report.index("\nthree\n")


def test_an_interrupt_ends_every_group_in_order(tmp_path: Path) -> None:
    """Also where it was started in the background, with interrupts ignored: each pytest cleans up, and nothing more is run."""
    waves = waves_of(tmp_path, {"one": _WAITS, "two": _WAITS}, {"three": _PASSES})
    started = [tmp_path / f"test_{name}.started" for name in ("one", "two")]
    deaf = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    command = [*deaf, sys.executable, "-c", _RUN, waves]
    with subprocess.Popen(command, env=_ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: all(path.exists() for path in started), 60.0, "both groups to run")
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)

    assert process.returncode == INTERRUPTED
    assert all(path.with_suffix(".ended").exists() for path in started)
    assert "three" not in said
