"""`lmx rm`: delete a model from this machine."""

from urllib.parse import quote

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.quantities import short_size
from lmx_supervisor.cli.terminal import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx unload tiny && lmx rm tiny")
def rm(
    model: options.Model,
    *,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Delete a model that is not loaded. One that was loaded by its path is only forgotten: its files stay."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.delete(f"/admin/models/{quote(model, safe='/')}")
    if as_json:
        print_json(document)
    else:
        print(f"{model} is gone; {short_size(document.get('freed_bytes'))} are free again")
