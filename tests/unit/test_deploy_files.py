"""The files that hand LMX to a service manager say what docs/operations.md promises of them."""

import configparser
import plistlib
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_systemd_restarts_crashes_only_and_watches() -> None:
    """A clean stop ends it, a crash or a loop that stands still does not; its workers are the supervisor's to end."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]  # keys keep their capitals
    unit.read_string((DEPLOY / "systemd/lmx.service").read_text())
    service = unit["Service"]

    assert (service["Type"], service["Restart"], service["KillMode"]) == ("notify", "on-failure", "mixed")
    assert service["WatchdogSec"] == "30"
    assert service["ExecStart"].endswith("/lmx serve")


def test_launchd_restarts_crashes_only() -> None:
    """The property list is well-formed, and a clean stop ends the job."""
    job = plistlib.loads((DEPLOY / "launchd/com.opta.lmx.plist").read_bytes())

    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["ProgramArguments"][-1] == "serve"
