"""The crash bundles a server has written, for tests that read the evidence."""

import json
from pathlib import Path
from typing import Any

from tests.support.live import LiveServer, wait_until

_WAIT_SECONDS = 10.0


def wait_for_bundle(server: LiveServer, reason: str) -> tuple[dict[str, Any], Path]:
    """The summary and the directory of the newest bundle with this reason; bundles are written a moment after the death."""
    wait_until(lambda: bool(_with_reason(server, reason)), _WAIT_SECONDS, f"a crash bundle that says {reason}")
    path = _with_reason(server, reason)[-1]
    return json.loads(path.read_text()), path.parent


def _with_reason(server: LiveServer, reason: str) -> list[Path]:
    # A bundle that is still being written has a hidden name.
    summaries = sorted((server.home / "crashes").glob("[!.]*/summary.json"))
    return [path for path in summaries if json.loads(path.read_text())["reason"] == reason]
