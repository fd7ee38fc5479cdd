"""`lmx logs`: where the server writes what it has to say, and `lmx logs MODEL`: what a model's workers print."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.completion import served_models
from lmx_supervisor.cli.failures import NoAnswer, UsageFailure
from lmx_supervisor.cli.fleet import WORKERS_PATH
from lmx_supervisor.cli.terminal import print_json, printable, remark
from lmx_supervisor.core.records import LogPlaces

LOGS_PATH = "/admin/logs"

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx logs --follow smollm2-135m-instruct")
def logs(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Print what this model's workers print; without it: where the server's own logs are.",
            autocompletion=served_models,
        ),
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is printed, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of text; with MODEL one document per line.")
    ] = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Show the last output of a model's workers, or tell where the server's logs, journals and crash bundles are."""
    if model is None and follow:
        raise UsageFailure("--follow needs a MODEL; `lmx events --follow` shows what the server itself tells")
    with Client(options.connection_from(url, admin_key)) as client:
        if model is None:
            _print_places(client.get(LOGS_PATH), as_json=as_json)
            return
        path = f"{WORKERS_PATH}/{quote(model, safe='')}/logs?{urlencode({'follow': str(follow).lower()})}"
        with client.listen(path) as stream:
            for part in _parse(stream, path):
                _print_part(part, as_json=as_json)


def _print_places(document: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    try:
        places = msgspec.convert(document, LogPlaces)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{LOGS_PATH} answers in a form this version of lmx does not know ({error})") from error
    journal = "" if places.journaling else "  (not written: journaling.enabled is false)"
    lines = [
        f"log           {places.log_output}",
        f"log file      {places.log_file or 'none: logging.file is not set'}",
        f"session logs  {places.session_logs_dir}{journal}",
        f"update logs   {places.update_logs_dir}{journal}",
        f"crashes       {places.crashes_dir}",
    ]
    print("\n".join(map(printable, lines)))


def _parse(stream: Iterator[str], path: str) -> Iterator[Mapping[str, Any]]:
    for data in stream:
        try:
            part = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise NoAnswer(f"{path} sends something else than output; is this an LMX server?") from error
        if part.get("type") in ("output", "gap"):
            yield part


def _print_part(part: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(part).decode(), flush=True)
    elif part["type"] == "gap":
        lost_bytes = part.get("lost_bytes")
        remark("… earlier output is gone" if lost_bytes is None else f"… {lost_bytes} bytes of output are gone")
    else:
        print("\n".join(printable(str(line)) for line in part.get("lines", ())), flush=True)
