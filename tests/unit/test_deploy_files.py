"""The files for service managers start a program that exists, with options it takes, and give it the time it needs."""

import configparser
import plistlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lmx_protocol import limits
from lmx_supervisor.cli.commands.serve import app as serve
from lmx_supervisor.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
STOP_SECONDS_NEEDED = limits.DRAIN_SECONDS + limits.STOP_GRACE_LARGE_SECONDS + limits.KILL_WAIT_SECONDS
"""What the slowest orderly stop takes by default."""


def unit() -> configparser.ConfigParser:
    """The systemd unit."""
    parsed = configparser.ConfigParser(strict=True, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # systemd tells capitals apart
    parsed.read_string((DEPLOY / "systemd" / "lmx.service").read_text())
    return parsed


def plist() -> dict[str, Any]:
    """The launchd property list."""
    return dict(plistlib.loads((DEPLOY / "launchd" / "com.opta.lmx.plist").read_bytes()))


def command_lines() -> list[list[str]]:
    """Every program that the two files start."""
    service = unit()["Service"]
    return [plist()["ProgramArguments"], service["ExecStart"].split(), service["ExecReload"].split()]


@pytest.mark.parametrize("command_line", command_lines(), ids=" ".join)
def test_the_program_and_its_options_exist(command_line: list[str]) -> None:
    """An installed entry point, one of its commands, and only options that this command takes."""
    program, command, *arguments = command_line
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert Path(program).is_absolute()
    assert Path(program).name in scripts
    assert command in COMMANDS
    if command == "serve":
        context = get_command(serve).make_context("serve", list(arguments), resilient_parsing=True)
        known = {option for parameter in context.command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= known


def test_systemd_is_told_and_patient() -> None:
    """Readiness and signs of life are waited for, a stop has the time it needs, and only the supervisor is asked to stop."""
    service = unit()["Service"]

    assert ("notify", "mixed", "on-failure", "continue") == tuple(
        service[name] for name in ("Type", "KillMode", "Restart", "OOMPolicy")
    )
    assert 10 * limits.WATCHDOG_PING_SECONDS <= float(service["WatchdogSec"])
    assert STOP_SECONDS_NEEDED < float(service["TimeoutStopSec"])
    assert limits.NOFILE_WANTED <= int(service["LimitNOFILE"])
    assert "0" == unit()["Unit"]["StartLimitIntervalSec"]


def test_launchd_restarts_what_crashed_only() -> None:
    """A clean stop stays stopped; the limits and the time to stop are as on Linux, and the label is the file's name."""
    said = plist()

    assert "com.opta.lmx" == said["Label"]
    assert {"SuccessfulExit": False} == said["KeepAlive"]
    assert said["RunAtLoad"] is True
    assert limits.UNCLEAN_STARTS_MAX * said["ThrottleInterval"] < limits.UNCLEAN_STARTS_SECONDS
    assert STOP_SECONDS_NEEDED < said["ExitTimeOut"]
    assert {limits.NOFILE_WANTED} == {said[name]["NumberOfFiles"] for name in ("SoftResourceLimits", "HardResourceLimits")}
    assert 0o077 == said["Umask"]
