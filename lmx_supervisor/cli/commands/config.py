"""`lmx config`: the configuration as the server would read it here, without a server; and `reload` for the one that runs."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, NoAnswer
from lmx_supervisor.cli.terminal import print_json, remark, table, terminal_columns
from lmx_supervisor.config.annotated import annotated_config
from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.home import home_directory
from lmx_supervisor.config.load import LoadedConfig, load_config
from lmx_supervisor.config.redact import shown_values
from lmx_supervisor.config.sources import find_file
from lmx_supervisor.core.service import ReloadOutcome

RELOAD_PATH = "/admin/config/reload"
_VALUE_COLUMN = 1

File = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default=False,
        help="Default: LMX_CONFIG, else config.yaml or config.toml in the home.",
    ),
]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show, check, write and reload the configuration.",
    epilog="Example: lmx config show",
)


@app.command(epilog="Example: lmx config show")
def show(*, config: File = None, as_json: options.Json = False) -> None:
    """Print every key with its value in force and where that came from; secrets are not shown."""
    values = shown_values(_load(config))
    if as_json:
        print_json(values)
        return
    rows = [(value.key, msgspec.json.encode(value.value).decode(), str(value.origin)) for value in values]
    print("\n".join(table(("KEY", "VALUE", "FROM"), rows, shrink=(_VALUE_COLUMN,), columns=terminal_columns())))


@app.command(epilog="Example: LMX_SERVER__PORT=8080 lmx config check --config new.yaml")
def check(*, config: File = None, as_json: options.Json = False) -> None:
    """Say whether the server would start with this configuration, and what is wrong with it; exit status 1 if it would not."""
    try:
        loaded = _read(config)
    except ConfigError as error:
        if as_json:
            print_json(
                {"ok": False, "source": error.source, "key": error.key, "reason": error.reason, "suggestion": error.suggestion}
            )
        raise CommandFailure(str(error)) from error
    file = None if loaded.file is None else str(loaded.file)
    if as_json:
        print_json({"ok": True, "file": file, "remarks": loaded.remarks})
    else:
        print(f"ok: {file or 'no file; defaults and environment'}")


@app.command(epilog="Example: lmx config init && $EDITOR $(lmx config path)")
def init(
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file that is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write an annotated config.yaml to the home; everything in it is a comment until you change it."""
    path = home_directory() / "config.yaml"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Private from the first byte on: keys are going to be written into it.
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(annotated_config())
    except FileExistsError:
        raise CommandFailure(f"{path} exists already; --force overwrites it") from None
    except OSError as error:
        raise CommandFailure(f"cannot write {path}: {error.strerror}") from error
    if as_json:
        print_json({"file": str(path)})
    else:
        print(path)


@app.command(name="reload", epilog="Example: lmx config check && lmx config reload")
def reload_running(*, as_json: options.Json = False, url: options.Url = None, admin_key: options.AdminKey = None) -> None:
    """Have the running server read its configuration again, and say what that changed."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.post(RELOAD_PATH, {})
    if as_json:
        print_json(document)
        return
    try:
        outcome = msgspec.convert(document, ReloadOutcome)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{RELOAD_PATH} answers in a form this version of lmx does not know ({error})") from error
    print(f"in force now: {', '.join(outcome.updated) or 'nothing new'}")
    if outcome.ignored:
        print(f"after a restart: {', '.join(outcome.ignored)}")


@app.command(epilog="Example: lmx config path")
def path(*, config: File = None, as_json: options.Json = False) -> None:
    """Print the file that the server would read, or where it would look for one."""
    found = find_file(config, os.environ, home_directory())
    file = found or home_directory() / "config.yaml"
    if as_json:
        print_json({"file": str(file), "exists": file.is_file()})
    else:
        print(file)


def _load(file: Path | None) -> LoadedConfig:
    try:
        return _read(file)
    except ConfigError as error:
        raise CommandFailure(str(error)) from error


def _read(file: Path | None) -> LoadedConfig:
    """The configuration, its remarks told. Raises `ConfigError`."""
    no_flags: dict[str, Any] = {}
    loaded = load_config(file=file, flags=no_flags, environ=os.environ, home=home_directory())
    for text in loaded.remarks:
        remark(text)
    return loaded
