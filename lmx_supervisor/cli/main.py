"""The entry of `lmx`: finds the command, imports only that one, and turns its failure into one line and an exit status.

`lmx serve` becomes the supervisor, which has to stay small: nothing imported here or in `commands.serve` may bring in the
HTTP client or the libraries that draw on terminals.
"""

import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from lmx_supervisor.cli.exit_status import ExitStatus
from lmx_supervisor.cli.failures import CommandFailure

COMMANDS = (
    "serve",
    "status",
    "ps",
    "top",
    "ls",
    "pull",
    "rm",
    "load",
    "bench",
    "tune",
    "unload",
    "restart",
    "probe",
    "quantize",
    "quarantine",
    "prefixes",
    "crashes",
    "presets",
    "run",
    "chat",
    "embed",
    "events",
    "logs",
    "config",
    "doctor",
)


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = get_command(import_module(f"lmx_supervisor.cli.commands.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(name="lmx", cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lmx {metadata.version('lmx')}")
        raise typer.Exit


@app.callback(epilog="Try it: lmx serve --demo   then, in another terminal: lmx chat smollm2-135m-instruct")
def lmx(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """LMX serves local language models; no model can take the service down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` defaults to the process's own. Returns a failure's status; all else raises `SystemExit`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a character must not end the command that prints it.
            stream.reconfigure(errors="replace")
    try:
        app(arguments, prog_name="lmx")
    except CommandFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_status
    return ExitStatus.OK
