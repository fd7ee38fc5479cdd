"""`lmx pull`: fetch a model from the hub."""

from typing import Annotated, Any

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.download_progress import DOWNLOADS_PATH, follow_download, parse_download
from lmx_supervisor.cli.failures import CommandFailure, UsageFailure
from lmx_supervisor.cli.quantities import short_size
from lmx_supervisor.cli.terminal import print_json

DOWNLOAD_PATH = "/admin/models/download"

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx pull mlx-community/Qwen2.5-0.5B-Instruct-4bit")
def pull(
    model: Annotated[str, typer.Argument(metavar="OWNER/NAME", show_default=False, help="The repository on the model hub.")],
    *,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="R", show_default=False, help="A branch, tag or commit.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="PATTERN", show_default=False, help="Only such files, for example '*Q4_K_M.gguf'."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="PATTERN", show_default=False, help="All but such files.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End its download, and throw away what has come.")] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Have the server download a model; returns when it has arrived. What has come is kept: pull again to go on."""
    if cancel and (revision or allow or ignore):
        raise UsageFailure("--cancel takes the name of the repository and nothing else")
    with Client(options.connection_from(url, admin_key)) as client:
        if cancel:
            _cancel(client, model, as_json=as_json)
            return
        order = {"repo_id": model, "revision": revision, "allow_patterns": allow, "ignore_patterns": ignore}
        started = client.post(DOWNLOAD_PATH, {name: value for name, value in order.items() if value})
        view = follow_download(client, str(started["download_id"]))
    if as_json:
        print_json(view)
    else:
        print(f"{model} is here: {short_size(view.total_bytes)} in {view.local_path}")


def _cancel(client: Client, model: str, *, as_json: bool) -> None:
    active = [parse_download(item) for item in client.get(DOWNLOADS_PATH)["downloads"]]
    ids = [view.download_id for view in active if view.repo_id == model]
    if not ids:
        raise CommandFailure(f"{model} is not being downloaded")
    cancelled: list[Any] = [client.post(f"{DOWNLOAD_PATH}/{download_id}/cancel", {}) for download_id in ids]
    if as_json:
        print_json(cancelled)
        return
    for document in cancelled:
        outcome = "is cancelled" if document["cancelled"] else f"was {document['status']} already"
        print(f"the download of {model} {outcome}")
