"""`python -m tests.everything`: runs all tests, in groups that stand side by side where they do not disturb each other.

What computes and what mostly waits for processes share the machine; what measures times has it to itself afterwards. Each group
is a pytest of its own. Their progress is shown line by line; what pytest says at its end is kept until everything has run, so
that failures stand together at the end. An interrupt ends every group in order, as it ends a pytest.
"""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).parents[1]
WAVES = (
    {"code": ("unit", "gateway", "machine", "fuzz", "sim"), "processes": ("contract", "integration")},
    {"alone": ("fault", "integration")},
)
"""One after the other: the groups that run at once, and the directories of each. The last one runs what is marked `alone`, the
others what is not."""
GIVES_WAY = "code"
"""It only computes: where there are fewer cores than work, the others go first."""
END_SECONDS = 90.0
"""An interrupted pytest stops the servers of its test; longer than that may take."""
INTERRUPTED = 130
"""The exit status of what Ctrl-C has ended."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RULE = re.compile(r"^=+ (?P<title>.+?) =+$")
_FIRST = "test session starts"


@dataclass
class Report:
    """What a group has printed, as far as it is shown later."""

    lines: list[str] = field(default_factory=list)
    """From the first heading after the progress on: failures, warnings, times."""

    def takes(self, line: str) -> bool:
        """Whether this line belongs to the report; all that follow it do too."""
        heading = _RULE.match(line)
        if self.lines or (heading is not None and heading["title"] != _FIRST):
            self.lines.append(line)
            return True
        return False

    @property
    def closing(self) -> str:
        """pytest's last heading: how many passed and failed, and how long that took."""
        headings = [found["title"] for line in self.lines if (found := _RULE.match(line))]
        return headings[-1] if headings else "ended without a word"


class Group:
    """One pytest, and what it says."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.report = Report()
        # Out of the terminal's reach: Ctrl-C comes once, from us, and not also to the servers that a test is about to stop.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name=name)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not self.report.takes(line.rstrip("\n")):
                say(f"{self.name:>9} | {line}")
        say(f"{self.name:>9} | {self.report.closing}\n")

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        self._reader.join()
        return self._process.wait()

    def interrupt(self) -> None:
        """Ask it to end as Ctrl-C would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """It is given time to end in order, and then killed."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join()


def say(text: str) -> None:
    """For the one who waits."""
    sys.stdout.write(text)
    sys.stdout.flush()


def commands(groups: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """How each group is started. Each keeps a cache of its own of what failed last."""
    found = {}
    for name, directories in groups.items():
        chosen = ["-m", "alone" if groups is WAVES[-1] else "not alone"]
        pytest = [sys.executable, "-m", "pytest", "--durations=5", "-o", f"cache_dir=.pytest_cache/{name}", *chosen]
        way = ["nice", "-n", "5"] if name == GIVES_WAY else []
        found[name] = [*way, *pytest, *(f"tests/{directory}" for directory in directories)]
    return found


def run(waves: Iterable[dict[str, list[str]]]) -> int:
    """Run them, wave by wave; the worst exit status, or that of what was interrupted."""
    done: list[Group] = []
    running: list[Group] = []
    status = 0
    # A handler of ours also gives the children back the default action, where we were started in the background.
    for number in _SIGNALS:
        signal.signal(number, _interrupted)
    try:
        for wave in waves:
            for name, command in wave.items():
                running.append(Group(name, command))
            status = max(status, *(group.wait() for group in running))
            done, running = [*done, *running], []
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for group in running:
            group.interrupt()
        for group in running:
            group.end()
    for group in (*done, *running):
        say(f"\n{group.name}\n" + "".join(f"{line}\n" for line in group.report.lines))
    return status


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(commands(wave) for wave in WAVES))
