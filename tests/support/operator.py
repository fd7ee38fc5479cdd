"""An operator who types the commands of docs/operations.md, each as it stands there but for its placeholders."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fake_hub import FakeHub
from tests.support.live import STOP_SECONDS, LiveServer
from tests.support.runbook import BASE_URL, Command, misfit

ADMIN_KEY = "the-admin-key"
FIND_IT = '$(pgrep -f "opta_lmx")'
COMMAND_SECONDS = 120
_NOT_FOR_A_TEST = ("--host", "--port")
"""The test's server takes a free port on the loopback; `--host 0.0.0.0` would be reachable by others."""

# Says the status on stderr, so that what is printed stays what an operator's next command reads.
_CURL = "curl() { command curl --silent --show-error --max-time 100 --write-out '%{stderr}%{http_code}\\n' \"$@\"; }"


@dataclass
class Printed:
    """What a command did."""

    status: int | None
    """Of the HTTP answer."""
    text: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.text)


@dataclass
class Operator:
    """Types. `server` is on, with `ADMIN_KEY`; `configuration` is what stands in its file."""

    server: LiveServer
    configuration: dict[str, dict[str, Any]]
    placeholders: dict[str, str] = field(default_factory=dict)
    """Text of the page → what it stands for here; beside those that every command has."""
    hub: FakeHub = field(default_factory=FakeHub)
    """Where models come from; nobody serves this one."""

    @property
    def is_on(self) -> bool:
        """Whether the server runs."""
        return self.server.process is not None and self.server.process.poll() is None

    def write_configuration(self, changes: dict[str, Any] | None = None) -> None:
        """The file, with these dotted keys changed."""
        for dotted, value in (changes or {}).items():
            section, _, name = dotted.partition(".")
            self.configuration.setdefault(section, {})[name] = value
        # JSON is YAML.
        (self.server.home / "config.yaml").write_text(json.dumps(self.configuration))

    def type(self, command: Command) -> Printed:
        """Change the configuration as the page says, then run the command."""
        if command.settings:
            self.write_configuration(command.settings)
        words = shlex.split(command.text, comments=True)
        variables = [word for word in words[: words.index("lmx")] if "=" in word] if "lmx" in words else []
        if words[len(variables) : len(variables) + 2] == ["lmx", "serve"]:
            arguments = [self.filled_in(word) for word in words[len(variables) + 2 :]]
            self.serve(dict(word.split("=", 1) for word in variables), arguments)
            return Printed(None, "")
        printed = self._run(self.filled_in(command.text))
        if command.text.startswith("kill "):
            self._see_it_end()
        return printed

    def filled_in(self, text: str) -> str:
        """The command with what its placeholders stand for."""
        home = f"{self.server.home}/"
        everywhere = {BASE_URL: self.server.url, "~/.opta-lmx/": home, FIND_IT: str(self.server.pid)}
        for placeholder, meaning in {**self.placeholders, **everywhere}.items():
            text = text.replace(placeholder, meaning)
        return text

    def _run(self, script: str) -> Printed:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LMX_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ADMIN_KEY": ADMIN_KEY,
        }
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{_CURL}\n{script}"],
            env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\nexit status {done.returncode}\n{done.stdout}{done.stderr}"
        said = done.stderr.split()
        return Printed(int(said[-1]) if said and said[-1].isdigit() else None, done.stdout)

    def serve(self, variables: dict[str, str], arguments: list[str]) -> None:
        """Start the server as the page says; one that still runs is stopped first."""
        self.stop()
        while arguments and arguments[0] in _NOT_FOR_A_TEST:
            arguments = arguments[2:]
        usual = self.server.environment
        self.server.environment, self.server.arguments = {**usual, **variables}, tuple(arguments)
        try:
            self.server.start()
        finally:
            self.server.environment, self.server.arguments = usual, ()
        self.server.http.headers["X-Admin-Key"] = ADMIN_KEY

    def stop(self) -> None:
        """In order, if it runs."""
        if self.is_on:
            assert self.server.stop() == 0, self.server.log()

    def crash_again(self) -> None:
        """What launchd or systemd do with a supervisor that dies."""
        self.server.kill()
        self.serve({}, [])

    def _see_it_end(self) -> None:
        assert self.server.process is not None
        assert self.server.process.wait(STOP_SECONDS) == 0, self.server.log()
        self.server.may_end = True
        self.server.close()
        self.server.assert_no_worker_is_left(seconds=5.0)

    def first_lines(self, command: Command, until: str) -> list[str]:
        """Run a command that has no end of its own, up to the first line that begins so."""
        script = f"exec {self.filled_in(command.text)}"
        environment = {**os.environ, "ADMIN_KEY": ADMIN_KEY}
        lines: list[str] = []
        with subprocess.Popen(
            ["bash", "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    lines.append(line.decode().rstrip())
                    if lines[-1].startswith(until):
                        break
            finally:
                child.send_signal(signal.SIGTERM)
        return lines


Act = Callable[[Operator], None]


@dataclass(frozen=True)
class Step:
    """What belongs to a command beside its text and its documented answer."""

    status: int = 200
    """Of an HTTP answer."""
    before: Act | None = None
    after: Callable[[Operator, Printed], None] | None = None
    run: Callable[[Operator, Command], Printed] | None = None
    """Instead of typing it."""


def loaded(*model_ids: str) -> Act:
    """These models are served."""
    return lambda operator: [operator.server.load(model_id) for model_id in model_ids] and None


def empty_and_safe(operator: Operator, _: Printed) -> None:
    """Nothing was loaded, on purpose."""
    status = operator.server.http.get("/admin/status").json()
    assert (status["safe_mode"], status["loaded_models"]) == (True, 0)


def follow(operator: Operator, commands: Iterable[Command], steps: Mapping[str, Step]) -> None:
    """Type commands in turn, each in the situation it is meant for; each must do what the page says.

    A command without a step is typed, and answers 200.
    """
    for command in commands:
        step = steps.get(command.name, Step())
        if step.before is not None:
            step.before(operator)
        printed = (step.run or Operator.type)(operator, command)
        if command.is_curl:
            assert printed.status == step.status, f"{command.name} {command.short}: {printed.text}"
        if command.answer is not None:
            documented = json.loads(operator.filled_in(json.dumps(command.answer)))
            wrong = misfit(documented, printed.document)
            assert wrong is None, f"{command.name} {command.short}: {wrong}"
        if step.after is not None:
            step.after(operator, printed)
