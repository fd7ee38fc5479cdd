"""`lmx presets`: the presets in force, `show` one of them, and `reload` them from their files."""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.terminal import print_json, printable, table, terminal_columns

PRESETS_PATH = "/admin/presets"

app = typer.Typer(add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="As `lmx presets` lists it.")]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A preset, as the server shows it."""

    name: str
    model: str
    description: str = ""
    parameters: dict[str, Any] = {}
    system_prompt: str | None = None
    routing_alias: str | None = None
    auto_load: bool = False
    performance: dict[str, Any] = {}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    presets: list[Shown]


@app.callback(invoke_without_command=True, epilog="Example: lmx presets && lmx run preset:code-assistant 'Explain async/await'")
def list_presets(
    context: typer.Context,
    *,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """List the presets; a request names one as preset:NAME."""
    if context.invoked_subcommand is not None:
        return
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(PRESETS_PATH)
    if as_json:
        print_json(document)
        return
    presets = _converted(document, Listing).presets
    if not presets:
        print("there are no presets; put NAME.yaml files into the presets directory and call: lmx presets reload")
        return
    rows = [(preset.name, preset.model, preset.routing_alias or "-", preset.description or "-") for preset in presets]
    print("\n".join(table(("NAME", "MODEL", "ALIAS", "DESCRIPTION"), rows, shrink=(3, 1, 0), columns=terminal_columns())))


@app.command(epilog="Example: lmx presets show code-assistant")
def show(name: Name, *, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None) -> None:
    """Print everything that a preset says."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(f"{PRESETS_PATH}/{quote(name, safe='')}")
    if as_json:
        print_json(document)
        return
    preset = _converted(document, Shown)
    lines = [f"{label:<15}{value}" for label, value in _facts(preset) if value not in (None, "", False)]
    print("\n".join(printable(line) for line in lines))


@app.command(epilog="Example: lmx presets reload")
def reload(*, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None) -> None:
    """Have the server read the preset files again; `lmx events` tells of those it cannot use."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.post(f"{PRESETS_PATH}/reload", {})
    if as_json:
        print_json(document)
        return
    print(f"{document.get('presets_loaded')} presets are in force")


def _facts(preset: Shown) -> list[tuple[str, Any]]:
    said = [
        ("name", preset.name),
        ("description", preset.description),
        ("model", preset.model),
        ("alias", preset.routing_alias),
        ("auto-load", preset.auto_load and "at the start"),
        *((name, _spelled(value)) for name, value in preset.parameters.items()),
        *((f"load {name}", _spelled(value)) for name, value in preset.performance.items()),
        ("system prompt", preset.system_prompt),
    ]
    return [(f"{label}:", value) for label, value in said]


def _spelled(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _converted(document: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{PRESETS_PATH} answers in a form this version of lmx does not know ({error})") from error
