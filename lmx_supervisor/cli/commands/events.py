"""`lmx events`: what the service told its operators, and tells them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.terminal import printable

app = typer.Typer(add_completion=False)

EVENTS_PATH = "/admin/events"

_EVERYTHING = 0
"""The id to resume from that is older than every event."""
_REQUEST_COMPLETED = "request_completed"
_HEAD_FIELDS = ("id", "type", "timestamp", "model_id")


@app.command(epilog="Example: lmx events --follow --json")
def events(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    requests: Annotated[bool, typer.Option("--requests", help="The end of every request too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document per line instead of text.")] = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """List what happened lately: loads, crashes, restarts, quarantines and the like, the newest last."""
    path = f"{EVENTS_PATH}?last_event_id={_EVERYTHING}&follow={'true' if follow else 'false'}"
    with Client(options.connection_from(url, admin_key)) as client, client.listen(path) as stream:
        for event in _parse(stream):
            if event["type"] == _REQUEST_COMPLETED and not requests:
                continue
            print(msgspec.json.encode(event).decode() if as_json else _line(event), flush=True)


def _parse(stream: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    """The events and gaps; heartbeats, and the gap before the oldest event there is, are nobody's news."""
    for data in stream:
        try:
            event = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise NoAnswer(f"{EVENTS_PATH} sends something else than events; is this an LMX server?") from error
        if "type" in event and event.get("from_id") != _EVERYTHING:
            yield event


def _line(event: Mapping[str, Any]) -> str:
    if event["type"] == "gap":
        return f"… events between {event.get('from_id')} and {event.get('to_id')} are not known any more"
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in _HEAD_FIELDS and value is not None)
    parts = (_time(event.get("timestamp")), str(event["type"]), str(event.get("model_id") or ""), fields)
    # One line per event, whatever a worker's last words were.
    return printable("  ".join(part for part in parts if part).replace("\n", " "))


def _time(unix_seconds: object) -> str:
    if not isinstance(unix_seconds, int | float):
        return ""
    return f"{datetime.fromtimestamp(unix_seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
