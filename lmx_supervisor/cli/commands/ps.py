"""`lmx ps`: what runs."""

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.fleet import WORKERS_PATH, fleet_lines, parse_fleet
from lmx_supervisor.cli.terminal import print_json, remark, terminal_columns

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx ps --json")
def ps(*, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None) -> None:
    """List the models that have a worker: state, memory, restarts, requests, speed, last exit."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(WORKERS_PATH)
    if as_json:
        print_json(document)
        return
    fleet = parse_fleet(document)
    print("\n".join(fleet_lines(fleet, terminal_columns())))
    if fleet.spares:
        remark("warm spares: " + ", ".join(f"{spare.backend} (pid {spare.pid or '-'})" for spare in fleet.spares))
