"""`lmx prefixes`: computed prompts that stopped models left on the disk, and deleting them."""

from typing import Annotated
from urllib.parse import quote

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import UsageFailure
from lmx_supervisor.cli.quantities import short_size
from lmx_supervisor.cli.terminal import print_json

PREFIX_CACHE_PATH = "/admin/prefix-cache"

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True, epilog="Example: lmx prefixes && lmx prefixes clear tiny")
def show(
    context: typer.Context,
    *,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """How much of computed prompts lies on the disk, and how much may; `clear` deletes them."""
    if context.invoked_subcommand is not None:
        return
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(PREFIX_CACHE_PATH)
    if as_json:
        print_json(document)
        return
    allowed = f"at most {short_size(document.get('bytes_max'))}" if document.get("enabled") else "none are kept any more"
    print(f"{document.get('files')} computed prompts take {short_size(document.get('bytes'))}; {allowed}")


@app.command(epilog="Example: lmx prefixes clear --all")
def clear(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", show_default=False, help="Whose prompts to delete.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Delete the prompts of all models.")] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Delete computed prompts from the disk. What a loaded model holds in memory stays, and is saved when it is stopped."""
    if (model is None) != everything:
        raise UsageFailure("give either a MODEL or --all")
    path = PREFIX_CACHE_PATH if model is None else f"{PREFIX_CACHE_PATH}/{quote(model, safe='/')}"
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.delete(path)
    if as_json:
        print_json(document)
    else:
        print(f"{short_size(document.get('freed_bytes'))} are free again")
