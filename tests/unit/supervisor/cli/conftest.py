"""Fixtures: the stand-in server, and `lmx` run in this process against it."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmx_supervisor.cli.main import main
from tests.unit.supervisor.cli.stand_in import Result, StandIn, serving

Lmx = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A server that knows no route yet."""
    stand_in = StandIn()
    http = serving(stand_in)
    try:
        yield stand_in
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and none of the user's own settings."""
    for name in ("LMX_URL", "LMX_ADMIN_KEY", "LMX_API_KEY", "LMX_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LMX_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def lmx(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lmx:
    """Run a command in this process; returns status, stdout and stderr."""

    def call(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            status = main(arguments)
        except SystemExit as left:
            status = int(left.code or 0)
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return call
