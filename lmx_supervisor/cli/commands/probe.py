"""`lmx probe`: which backends can open a model, without loading it."""

from typing import Annotated, Any

import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure
from lmx_supervisor.cli.terminal import print_json, table, terminal_columns

PROBE_PATH = "/admin/models/probe"
_REASON_COLUMN = 4

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx probe mlx-community/Qwen2.5-0.5B-Instruct-4bit")
def probe(
    model: options.Model,
    *,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=1, max=limits.PROBE_SECONDS_MAX, metavar="SECONDS", help="For each backend."),
    ] = limits.PROBE_SECONDS,
    force: Annotated[bool, typer.Option("--force", help="Probe even with a backend that failed the last time.")] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Have each backend open a model without its weights, in a process of its own. Status 1 when none can."""
    body = {"model_id": model, "timeout_sec": timeout, "allow_unsupported_runtime": force}
    with Client(options.connection_from(url, admin_key)) as client:
        report = client.post(PROBE_PATH, body, answer_seconds=None)
    if as_json:
        print_json(report)
    else:
        rows = [_row(candidate) for candidate in report["candidates"]]
        headers = ("BACKEND", "OUTCOME", "ARCHITECTURE", "TIME", "REASON")
        print("\n".join(table(headers, rows, shrink=(_REASON_COLUMN,), columns=terminal_columns())))
    if report["recommended_backend"] is None:
        raise CommandFailure(f"no backend can open {model}")


def _row(candidate: dict[str, Any]) -> tuple[str, ...]:
    seconds = candidate.get("duration_sec")
    return (
        str(candidate["backend"]),
        str(candidate["outcome"]),
        str(candidate.get("architecture") or "-"),
        "-" if seconds is None else f"{seconds:.1f}s",
        str(candidate.get("reason") or "-"),
    )
