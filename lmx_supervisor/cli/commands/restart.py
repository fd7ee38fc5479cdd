"""`lmx restart`: give a model a fresh worker."""

from urllib.parse import quote

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.terminal import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx restart tiny")
def restart(
    model: options.ServedModel, *, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None
) -> None:
    """Replace a served model's worker, after its running requests; waiting ones are kept. Returns when it serves again."""
    with Client(options.connection_from(url, admin_key)) as client:
        # As long as the running requests and the load take; both have bounds of the server's own.
        document = client.post(f"/admin/models/{quote(model)}/restart", {}, answer_seconds=None)
    if as_json:
        print_json(document)
        return
    milliseconds = document.get("time_to_load_ms")
    print(f"{model} is served again" + ("" if milliseconds is None else f" after {milliseconds / 1000:.1f} s"))
