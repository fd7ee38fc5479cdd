"""`lmx top` against a server that answers as told: one look as text and as JSON, and the redrawing in a terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.cli.commands.top import top_lines
from lmx_supervisor.cli.failures import NoAnswer
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import Reply, StandIn

STATUS = "/admin/status"
MODEL: dict[str, Any] = {
    "state": "ready",
    "running_requests": 0,
    "waiting_requests": 0,
    "concurrent_limit": 4,
    "tokens_per_second": 0.0,
    "prefill_tokens_per_second": 0.0,
    "ttft_p95_sec": None,
    "queue_wait_p95_sec": None,
    "memory_gb": 0.5,
    "reserved_gb": 1.25,
    "restarts": 0,
}
BUSY = {
    **MODEL,
    "running_requests": 3,
    "waiting_requests": 12,
    "tokens_per_second": 81.4,
    "prefill_tokens_per_second": 912.0,
    "ttft_p95_sec": 0.25,
    "queue_wait_p95_sec": 1.24,
    "restarts": 2,
}


def document(**models: dict[str, Any]) -> dict[str, Any]:
    """What GET /admin/status answers, as far as it is shown."""
    memory = {"total_gb": 64.0, "used_gb": 8.25, "reserved_gb": 2.5, "free_gb": 40.0, "load_shedding": False}
    counts = {"in_flight_requests": 3, "waiting_requests": 12, "concurrent_limit": 8}
    return {**counts, "memory": memory, "per_model": models}


def test_one_look_has_the_service_and_each_model(lmx: Lmx, server: StandIn) -> None:
    """Without a terminal it is shown once: the busiest model first, every figure in its column, `-` for what is not known."""
    server.answer(STATUS, document(calm=MODEL, busy=BUSY))
    result = lmx("top", "--url", server.url)

    head, memory, headers, *rows = result.out.splitlines()
    assert (result.status, head) == (0, "requests  3 of at most 8, 12 waiting")
    assert memory == "memory    8.2 of 64.0 GB used, 2.5 reserved, 40.0 free"
    assert headers.split() == ["MODEL", "STATE", "RUN", "LINE", "TOK/S", "PRE/S", "TTFT", "WAIT", "USED", "RSVD", "RST"]
    assert rows[0].split() == ["busy", "ready", "3/4", "12", "81", "912", "250ms", "1.2s", "512M", "1.2G", "2"]
    assert rows[1].split() == ["calm", "ready", "0/4", "0", "0", "0", "-", "-", "512M", "1.2G", "0"]


def test_json_is_the_servers_document(lmx: Lmx, server: StandIn) -> None:
    """Scripts get everything the server says, once."""
    server.answer(STATUS, document(busy=BUSY))
    assert json.loads(lmx("top", "--json", "--url", server.url).out) == document(busy=BUSY)


def test_another_kind_of_document_is_no_answer() -> None:
    """An older server has no figures of its models, and that is said."""
    with pytest.raises(NoAnswer, match="does not know"):
        top_lines({"version": "1"}, None)


def test_every_line_fits_a_narrow_terminal() -> None:
    """However long the names and large the numbers."""
    huge = {**BUSY, "state": "quarantined", "tokens_per_second": 12345.0, "running_requests": 16, "waiting_requests": 1024}
    shedding = document(**{"mlx-community/Qwen2.5-Coder-32B-Instruct-8bit": huge, "calm": MODEL})
    shedding["memory"]["load_shedding"] = True
    lines = top_lines(shedding, 80)

    assert max(map(len, lines)) <= 80
    assert lines[3].startswith("mlx-")


def test_a_terminal_is_drawn_anew_until_ctrl_c(server: StandIn, home: Path) -> None:
    """What the next look finds takes the place of the last; a server that refuses is said to, and asked again."""
    second = {"error": {"message": "Server under memory pressure", "type": "x", "param": None, "code": "overloaded"}}
    looks = iter([(200, document(first=BUSY)), (503, second)])

    def look(_: Any) -> Reply:
        return next(looks, (200, document(third=BUSY)))

    server.routes[STATUS] = look
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LMX_HOME": str(home), "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    command = [sys.executable, "-m", "lmx_supervisor", "top", "--interval", "0.1", "--url", server.url]
    shown = b""
    try:
        with subprocess.Popen(command, env=environment, stdout=terminal, stderr=subprocess.PIPE) as process:
            while b"third" not in shown:
                shown += os.read(controller, 65536)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr is not None
            assert process.stderr.read() == b""
    finally:
        os.close(controller)
        os.close(terminal)
    assert (
        shown.index(b"first")
        < shown.index(b"as it was; now: Server under memory pressure (overloaded)")
        < shown.index(b"third")
    )
