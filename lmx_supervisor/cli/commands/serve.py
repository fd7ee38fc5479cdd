"""`lmx serve`: start the service in this process. Imports nothing that the service itself does not need."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lmx_supervisor.early_stop import leave_when_asked

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx serve --demo --port 8080")
def serve(
    *,
    demo: Annotated[bool, typer.Option("--demo", help="Also serve the small model that comes with LMX.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            show_default=False,
            help="Default: LMX_CONFIG, else config.yaml or config.toml in the home.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", show_default=False, help="Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, metavar="PORT", show_default=False, help="Default: 1234; 0 takes a free one."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", metavar="LEVEL", show_default=False, help="DEBUG, INFO, WARNING or ERROR."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="PATH", show_default=False, help="A model file or directory to serve; repeatable."),
    ] = None,
) -> None:
    """Start the server; Ctrl-C or SIGTERM stops it after the running requests have ended."""
    leave_when_asked()
    # Not at the top: listing the commands for --help must not import the whole service, and that is most of a start.
    from lmx_supervisor.serve import ServeOptions, run

    given = {"server.host": host, "server.port": port, "logging.level": log_level and log_level.upper()}
    flags: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(run(ServeOptions(config_file=config, flags=flags, demo=demo, models=tuple(models or ()))))
