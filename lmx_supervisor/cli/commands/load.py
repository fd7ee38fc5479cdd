"""`lmx load`: have a model served."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.download_progress import follow_download
from lmx_supervisor.cli.failures import CommandFailure
from lmx_supervisor.cli.load_progress import load_model
from lmx_supervisor.cli.quantities import short_size
from lmx_supervisor.cli.settings import read_settings
from lmx_supervisor.cli.terminal import print_json, remark

CONFIRM_PATH = "/admin/models/load/confirm"

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
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", show_default=False, help="Tune this load, e.g. slots=8 or temperature=0; repeatable."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Try even a quarantined model; it is released once it has answered a request.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch it from the hub without asking, if it is not here.")
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
        "performance_overrides": read_settings(settings or []) or None,
        "allow_unsupported_runtime": force or None,
        "auto_download": download or None,
    }
    with Client(options.connection_from(url, admin_key)) as client:
        document = _load(client, {name: value for name, value in order.items() if value is not None})
        if "status" in document:
            follow_download(client, _download_of(client, document))
            # The server loads it by itself now; this joins that load.
            document = _load(client, {name: value for name, value in order.items() if value is not None})
    if as_json:
        print_json(document)
    elif not document.get("success"):
        raise CommandFailure(str(document.get("message") or "the server did not load it and did not say why"))
    else:
        print(f"{model} is served{_figures(document)}")


def _load(client: Client, order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(load_model(client, order))
    except KeyboardInterrupt:
        remark(f"{order['model_id']} goes on loading; see: lmx ps")
        raise


def _download_of(client: Client, answer: Mapping[str, Any]) -> str:
    """The id of the download that a load needs, once the user has agreed to it. Raises `CommandFailure`."""
    if answer["status"] == "download_required":
        _ask(str(answer.get("message", "")), answer.get("estimated_size_bytes"))
        answer = client.post(CONFIRM_PATH, {"confirmation_token": answer["confirmation_token"]})
    return str(answer["download_id"])


def _ask(message: str, size_bytes: int | None) -> None:
    """Return when the user agrees to the download. Raises `CommandFailure`."""
    if sys.stdin.isatty():
        remark(message)
        print(f"Download {short_size(size_bytes)} now? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        # The end of the input: nobody is there to ask.
        raise CommandFailure(message)
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandFailure("nothing was downloaded; to do it without being asked: lmx load --download")


def _figures(document: dict[str, Any]) -> str:
    milliseconds, gigabytes = document.get("time_to_load_ms"), document.get("memory_after_load_gb")
    took = "" if milliseconds is None else f" after {milliseconds / 1000:.1f} s"
    return took + ("" if gigabytes is None else f", in {gigabytes:.2f} GB")
