"""`lmx tune`: find the settings that suit a model best, and keep them for its loads."""

import threading
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure
from lmx_supervisor.cli.settings import read_settings
from lmx_supervisor.cli.terminal import print_json, remark, table, terminal_columns

TUNE_PATH = "/admin/models/autotune"
EVENTS_PATH = "/admin/events"

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx tune smollm2-135m-instruct --try slots=1 --try slots=8,prefill_chunk_tokens=512")
def tune(
    model: options.Model,
    *,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--try", metavar="KEY=VALUE,…", show_default=False, help="Settings to try; repeatable. Default: sensible ones."
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, max=64, metavar="N", show_default=False, help="Requests at one time."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=5, help="Rounds of requests for each candidate.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=4096, help="Longest answer.")] = 128,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", show_default=False, help="What to ask, instead of the usual.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Try even a quarantined model.")] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Load a model with one set of settings after the other, measure each, and keep the best; Ctrl-C puts it back as it was."""
    order = {
        "model_id": model,
        "profiles": [read_settings(candidate.split(",")) for candidate in candidates or []],
        "concurrency": concurrency,
        "runs": runs,
        "max_tokens": max_tokens,
        "prompt": prompt,
        "allow_unsupported_runtime": force or None,
    }
    connection = options.connection_from(url, admin_key)
    with Client(connection) as client:
        # A daemon with a client of its own: it ends with the command, in the middle of whatever it listens to.
        progress = threading.Thread(target=show_progress, args=(Client(connection), model), name="progress", daemon=True)
        progress.start()
        document = client.post(
            TUNE_PATH, {name: value for name, value in order.items() if value is not None}, answer_seconds=None
        )
        # So that the last line is there before the table.
        progress.join(limits.CLI_POLL_SECONDS)
    if as_json:
        print_json(document)
    else:
        print("\n".join(_lines(document)))


def show_progress(client: Client, model: str) -> None:
    """Tell on stderr how far a model's autotune is, until the server has no more to tell."""
    try:
        with client, client.listen(EVENTS_PATH) as events:
            for data in events:
                event = msgspec.json.decode(data)
                if isinstance(event, dict) and event.get("model_id") == model and "candidates" in event:
                    remark(f"{model}: candidate {event['candidate']} of {event['candidates']}: {_progress(event)}")
    except (CommandFailure, msgspec.DecodeError):
        # The order itself tells what is wrong with the server.
        return


def _progress(event: Mapping[str, Any]) -> str:
    settings = _settings(event["profile"])
    match event["phase"]:
        case "measured":
            return f"{settings} scored {event['score']:.1f}"
        case "failed":
            return f"{settings} failed: {event['error']}"
        case phase:
            return f"{phase} {settings}"


def _lines(document: Mapping[str, Any]) -> list[str]:
    best = document["best_profile"]
    rows = [
        (
            "*" if candidate["profile"] == best and not candidate["error"] else "",
            _settings(candidate["profile"]),
            f"{candidate['metrics']['avg_tokens_per_second']:.1f}",
            f"{candidate['metrics']['avg_ttft_ms']:.0f} ms",
            f"{100 * candidate['metrics']['error_rate']:.0f} %",
            f"{candidate['score']:.1f}",
        )
        for candidate in document["candidates"]
    ]
    headers = ("", "SETTINGS", "TOKENS/S", "FIRST TOKEN", "FAILED", "SCORE")
    lines = table(headers, rows, shrink=(1,), columns=terminal_columns())
    return [*lines, f"kept for its next loads: {_settings(best)}"]


def _settings(profile: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in profile.items()) or "the configuration as it is"
