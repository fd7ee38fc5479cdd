"""`lmx quarantine`: the models that are not routed to after instability, and releasing them."""

import time
from typing import Annotated

import typer

from lmx_protocol.states import Readiness
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import UsageFailure
from lmx_supervisor.cli.fleet import WORKERS_PATH, parse_fleet
from lmx_supervisor.cli.quantities import short_duration
from lmx_supervisor.cli.terminal import print_json, table, terminal_columns
from lmx_supervisor.core.views import WorkerView

CLEAR_PATH = "/admin/quarantine/clear"
_MODEL_COLUMN, _EXIT_COLUMN = 0, 4

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True, epilog="Example: lmx quarantine && lmx quarantine clear tiny")
def list_quarantined(
    context: typer.Context,
    *,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """List the models in quarantine, and why; `clear` releases them."""
    if context.invoked_subcommand is not None:
        return
    with Client(options.connection_from(url, admin_key)) as client:
        fleet = parse_fleet(client.get(WORKERS_PATH))
    quarantined = [worker for worker in fleet.workers if worker.readiness.state is Readiness.QUARANTINED]
    if as_json:
        print_json(quarantined)
    elif not quarantined:
        print("no model is quarantined")
    else:
        headers, rows = ("MODEL", "BACKEND", "REASON", "FOR", "LAST EXIT"), [_row(worker) for worker in quarantined]
        print("\n".join(table(headers, rows, shrink=(_EXIT_COLUMN, _MODEL_COLUMN), columns=terminal_columns())))


@app.command(epilog="Example: lmx quarantine clear --all")
def clear(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", show_default=False, help="The model's id, as `lmx quarantine` shows it.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Release every model.")] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Release a model from quarantine, so that it can be loaded again."""
    if (model is None) != everything:
        raise UsageFailure("give either a MODEL or --all")
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.post(CLEAR_PATH, {"model_id": model})
    if as_json:
        print_json(document)
        return
    released = document.get("released") or ()
    print("\n".join(f"{name} is released; load it with: lmx load {name}" for name in released) or "no model was quarantined")


def _row(worker: WorkerView) -> tuple[str, ...]:
    age = short_duration(max(0.0, time.time() - worker.state_since_unix_seconds))
    exit_text = worker.last_exit.text if worker.last_exit is not None else "-"
    return (worker.model_id, worker.backend, worker.readiness.reason or "-", age, exit_text)
