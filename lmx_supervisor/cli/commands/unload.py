"""`lmx unload`: stop serving a model."""

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.terminal import print_json

UNLOAD_PATH = "/admin/models/unload"

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx unload tiny")
def unload(
    model: options.ServedModel, *, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None
) -> None:
    """Stop serving a model, after its running requests; a load in flight is cancelled."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.post(UNLOAD_PATH, {"model_id": model})
    if as_json:
        print_json(document)
        return
    freed = document.get("memory_freed_gb")
    print(f"{model} is no longer served" + ("" if freed is None else f"; {freed:.2f} GB freed"))
