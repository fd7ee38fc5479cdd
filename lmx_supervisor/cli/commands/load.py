"""`lmx load`: have a model served."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure
from lmx_supervisor.cli.load_progress import load_model
from lmx_supervisor.cli.terminal import print_json, remark

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx load tiny --path ~/models/tiny.gguf --context-length 8192")
def load(
    model: options.Model,
    *,
    path: Annotated[
        Path | None,
        typer.Option("--path", metavar="PATH", show_default=False, help="Where the model is, if not in the models directory."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="NAME", show_default=False, help="llamacpp, mlx or scripted.")
    ] = None,
    context_length: Annotated[
        int | None, typer.Option("--context-length", min=1, metavar="TOKENS", show_default=False, help="Tokens per request.")
    ] = None,
    keep_alive: Annotated[
        int | None,
        typer.Option(
            "--keep-alive", min=0, metavar="SECONDS", show_default=False, help="How long it may be idle; 0: for ever."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Try even a quarantined model; it is released once it has answered a request.")
    ] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Have the server load a model; returns when it serves. Ctrl-C leaves the load running."""
    order = {
        "model_id": model,
        # The server has another working directory.
        "path": str(path.expanduser().absolute()) if path else None,
        "backend": backend,
        "max_context_length": context_length,
        "keep_alive_sec": keep_alive,
        "allow_unsupported_runtime": force or None,
    }
    with Client(options.connection_from(url, admin_key)) as client:
        try:
            document = load_model(client, {name: value for name, value in order.items() if value is not None})
        except KeyboardInterrupt:
            remark(f"{model} goes on loading; see: lmx ps")
            raise
    if as_json:
        print_json(document)
    elif not document.get("success"):
        raise CommandFailure(str(document.get("message") or "the server did not load it and did not say why"))
    else:
        print(f"{model} is served{_figures(document)}")


def _figures(document: dict[str, Any]) -> str:
    milliseconds, gigabytes = document.get("time_to_load_ms"), document.get("memory_after_load_gb")
    took = "" if milliseconds is None else f" after {milliseconds / 1000:.1f} s"
    return took + ("" if gigabytes is None else f", in {gigabytes:.2f} GB")
