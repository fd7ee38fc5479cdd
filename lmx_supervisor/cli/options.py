"""The options that several commands share, with one wording for their help."""

from typing import Annotated

import typer

from lmx_supervisor.cli.completion import known_models, served_models
from lmx_supervisor.cli.connection import Connection, connect_to
from lmx_supervisor.config.home import home_directory

_PANEL = "Connection"

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LMX_URL",
        metavar="URL",
        show_default=False,
        rich_help_panel=_PANEL,
        help="The server. Default: the one running in the home, else http://127.0.0.1:1234.",
    ),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        "--admin-key",
        envvar="LMX_ADMIN_KEY",
        metavar="KEY",
        show_default=False,
        rich_help_panel=_PANEL,
        help="Opens /admin and everything else.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="LMX_API_KEY",
        metavar="KEY",
        show_default=False,
        rich_help_panel=_PANEL,
        help="Opens inference.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", show_default=False, help="The model's id, as `lmx ls` shows it.", autocompletion=known_models
    ),
]
ServedModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", show_default=False, help="The model's id, as `lmx ps` shows it.", autocompletion=served_models
    ),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", show_default=False, help="The system prompt.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0.0, max=2.0, metavar="T", show_default=False, help="0 always takes the likeliest token."
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, metavar="N", show_default=False, help="Stop the answer after N tokens.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say how fast the answer was, on stderr.")]


def connection_from(url: str | None, admin_key: str | None, api_key: str | None = None) -> Connection:
    """The server that the options name. Raises `UsageFailure`."""
    return connect_to(url=url or None, admin_key=admin_key or None, api_key=api_key or None, home=home_directory())
