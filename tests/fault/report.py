"""A pytest plugin that writes docs/faults.md: every case of `cases.toml`, proven or not, with what was measured.

Use: `python -m pytest -p tests.fault.report --faults-page=docs/faults.md tests/fault`. Each test says by its `fault` marker
which case it proves, and hands its measurements over as user properties. The page is made by `render`, a pure function.
"""

import os
import platform
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

_CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text(encoding="utf-8"))
_NO_TEST = "no test yet"


@dataclass(slots=True)
class Evidence:
    """What the tests of one case showed."""

    promises: list[str] = field(default_factory=list)
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    measured: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def measure(self, measurement: dict[str, Any]) -> None:
        """Take in a figure; of several of the same name the largest counts."""
        key = (measurement["name"], measurement["unit"])
        before = self.measured.get(key)
        if before is None or measurement["value"] > before["value"]:
            self.measured[key] = measurement


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to write the page."""
    parser.addoption("--faults-page", type=Path, default=None, help="write what was proven to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Start listening."""
    config.pluginmanager.register(FaultReport(config.getoption("--faults-page")), "lmx-fault-report")


class FaultReport:
    """Collects the evidence of a run."""

    def __init__(self, page: Path | None) -> None:
        self._page = page
        self._evidence: dict[str, Evidence] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test is over."""
        for case in (value for name, value in report.user_properties if name == "fault"):
            self._take(self._evidence.setdefault(case["id"], Evidence()), case, report)

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        if self._page is not None:
            self._page.write_text(render(self._evidence, machine(), today()), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the figures, so that a run says what it measured without the page."""
        terminalreporter.section("fault cases")
        for case_id, evidence in sorted(self._evidence.items()):
            terminalreporter.write_line(f"{case_id}  {_result(evidence)}  {_measured(evidence, separator='; ')}")

    def _take(self, evidence: Evidence, case: dict[str, Any], report: pytest.TestReport) -> None:
        if case["promise"] not in evidence.promises:
            evidence.promises.append(case["promise"])
        name = report.nodeid.rpartition("::")[2]
        if report.failed and name not in evidence.failed:
            evidence.failed.append(name)
        elif report.skipped:
            gap = getattr(report, "wasxfail", None)
            why = f"known gap: {gap}" if gap else case["not_run"] or _skip_reason(report)
            if why not in evidence.not_run:
                evidence.not_run.append(why)
        elif report.when == "call":
            evidence.passed += 1
        if report.when == "teardown":
            for measurement in (value for kind, value in report.user_properties if kind == "measurement"):
                evidence.measure(measurement)


def render(evidence: dict[str, Evidence], machine_line: str, date: str) -> str:
    """The whole page. `evidence`: case id → what its tests showed."""
    lines = [
        "# Faults",
        "",
        "What LMX survives, and how it is known. Every line marked proven was shown by injecting the fault into real",
        "processes; after each case the universal rules were checked (`tests/support/checker.py`). A promise nobody has shown",
        "says so.",
        "",
        f"Written by `scripts/faults` on {date}. {machine_line}.",
        "",
        _summary(evidence),
        "",
        "To repeat it: `scripts/faults`, or one case with `scripts/faults -k f31`. Figures are the worst of the run, with the",
        "bound they must keep. The defaults they follow from are in `lmx_protocol/limits.py`. Platforms: L Linux, M macOS;",
        "what is proven is proven on the machine above only.",
    ]
    for letter, title in _CASES["sections"].items():
        lines += ["", f"## {letter}. {title}", ""]
        lines += ["| case | fault | promise | platforms | result | measured |", "| --- | --- | --- | --- | --- | --- |"]
        for case_id, (fault, platforms) in _CASES["cases"][letter].items():
            found = evidence.get(case_id, Evidence(not_run=[_NO_TEST]))
            cells = [case_id, fault, "; ".join(found.promises) or "–", platforms, _result(found), _measured(found)]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The machine in one line."""
    memory_gigabytes = psutil.virtual_memory().total / 1024**3
    return (
        f"Machine: {platform.system()} {platform.release().partition('-')[0]} {platform.machine()}, {os.cpu_count()} cores, "
        f"{memory_gigabytes:.0f} GiB memory, Python {platform.python_version()}"
    )


def today() -> str:
    """The date, and no time: a run that shows the same writes the same page."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _summary(evidence: dict[str, Evidence]) -> str:
    ids = [case_id for cases in _CASES["cases"].values() for case_id in cases]
    found = [evidence.get(case_id, Evidence()) for case_id in ids]
    failed = sum(1 for one in found if one.failed)
    proven = sum(1 for one in found if one.passed and not one.failed)
    return f"{proven} of {len(ids)} cases are proven, {len(ids) - proven - failed} were not run, {failed} failed."


def _result(evidence: Evidence) -> str:
    if evidence.failed:
        return f"**failed**: {', '.join(evidence.failed)}"
    not_run = f"not run: {'; '.join(evidence.not_run)}" if evidence.not_run else ""
    proven = "proven" if evidence.passed else ""
    return "; ".join(part for part in (proven, not_run) if part)


def _measured(evidence: Evidence, separator: str = "<br>") -> str:
    return separator.join(_figure(measurement) for measurement in evidence.measured.values())


def _figure(measurement: dict[str, Any]) -> str:
    bound = f" (≤ {_number(measurement['bound'])})" if measurement["bound"] is not None else ""
    return f"{measurement['name']} {_number(measurement['value'])} {measurement['unit']}{bound}"


def _number(value: float) -> str:
    """Two significant digits, without an exponent."""
    digits = f"{float(f'{value:.2g}'):f}" if abs(value) < 100 else f"{value:.0f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _skip_reason(report: pytest.TestReport) -> str:
    reason: Sequence[Any] | str | None = report.longrepr if isinstance(report.longrepr, tuple | str) else None
    text = str(reason[2]) if isinstance(reason, tuple) else str(reason)
    return text.removeprefix("Skipped: ")
