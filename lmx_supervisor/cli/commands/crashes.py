"""`lmx crashes`: why workers died, and `lmx crashes show ID`: everything that was kept of one death."""

from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.crash_text import crash_table, report_lines
from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.terminal import print_json, printable, remark, terminal_columns
from lmx_supervisor.core.crashes import CrashHeadline, CrashReport

CRASHES_PATH = "/admin/crashes"

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True, epilog="Example: lmx crashes && lmx crashes show 0a1b2c3d-7")
def list_crashes(
    context: typer.Context,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", show_default=False, help="Only the deaths of this model's workers."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=limits.CRASH_BUNDLES_MAX, metavar="N", help="The newest N.")
    ] = limits.CRASH_BUNDLES_MAX,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """List the workers that died without having been asked to, the newest first; `show` tells everything about one."""
    if context.invoked_subcommand is not None:
        return
    query = {"limit": str(limit)} | ({"model_id": model} if model is not None else {})
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(f"{CRASHES_PATH}?{urlencode(query)}")
    if as_json:
        print_json(document)
        return
    crashes = _converted(document.get("crashes") if isinstance(document, dict) else None, list[CrashHeadline])
    if not crashes:
        print("no worker has crashed")
        return
    print("\n".join(crash_table(crashes, terminal_columns())))
    remark(f"newest: {crashes[0].text}")


@app.command(epilog="Example: lmx crashes show 0a1b2c3d-7")
def show(
    crash_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="As `lmx crashes` lists it.")],
    *,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Print what was kept of one death: reason, timeline, memory, requests, stacks, last output."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(f"{CRASHES_PATH}/{quote(crash_id, safe='')}")
    if as_json:
        print_json(document)
        return
    print("\n".join(printable(line) for line in report_lines(_converted(document, CrashReport))))


def _converted(document: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{CRASHES_PATH} answers in a form this version of lmx does not know ({error})") from error
