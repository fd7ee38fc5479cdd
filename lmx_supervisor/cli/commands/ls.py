"""`lmx ls`: what is on disk."""

from datetime import datetime
from typing import Any

import msgspec
import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.fleet import WORKERS_PATH, Fleet, parse_fleet
from lmx_supervisor.cli.quantities import short_size
from lmx_supervisor.cli.terminal import print_json, table, terminal_columns

AVAILABLE_PATH = "/admin/models/available"

app = typer.Typer(add_completion=False)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk, as the server lists it; `state` is its worker's, None without one."""

    repo_id: str
    local_path: str
    size_bytes: int | None = None
    downloaded_at: datetime | None = None
    state: str | None = None


@app.command(epilog="Example: lmx ls")
def ls(*, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None) -> None:
    """List the models on disk, and the state of those that have a worker."""
    with Client(options.connection_from(url, admin_key)) as client:
        models = listing(client.get(AVAILABLE_PATH), parse_fleet(client.get(WORKERS_PATH)))
    if as_json:
        print_json(models)
        return
    rows = [(model.repo_id, short_size(model.size_bytes), _day(model.downloaded_at), model.state or "-") for model in models]
    print("\n".join(table(("MODEL", "SIZE", "SINCE", "STATE"), rows, shrink=(0,), columns=terminal_columns())))


def listing(available: Any, fleet: Fleet) -> list[Listed]:
    """The models on disk with the states of their workers, then those that only their worker knows.

    Raises:
        NoAnswer: `available` has another shape than the server gives it.
    """
    try:
        on_disk = msgspec.convert(available, list[Listed])
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{AVAILABLE_PATH} answers in a form this version of lmx does not know ({error})") from error
    workers = {worker.model_id: worker for worker in fleet.workers}
    listed = []
    for model in on_disk:
        worker = workers.pop(model.repo_id, None)
        listed.append(msgspec.structs.replace(model, state=str(worker.state) if worker else None))
    # Served by its path: in no directory of models, and still somewhere on disk.
    listed += [Listed(repo_id=rest.model_id, local_path=rest.path, state=str(rest.state)) for rest in workers.values()]
    return listed


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d}"
