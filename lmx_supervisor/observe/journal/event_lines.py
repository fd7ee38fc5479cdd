"""The event log of a session: one JSON object a line, as the predecessor's readers know it. Pure."""

from datetime import UTC, datetime, tzinfo

import msgspec

from lmx_supervisor.core.event_log import LoggedEvent

LOST = "journal_gap"
"""The event type of a line that stands for events that could not be written."""


def event_line(event: LoggedEvent, zone: tzinfo) -> bytes:
    """One event, with its end of line."""
    return _line(event.kind, event.at_unix_seconds, dict(event.fields), zone)


def lost_line(count: int, at_unix_seconds: float, zone: tzinfo) -> bytes:
    """What stands for `count` events."""
    return _line(LOST, at_unix_seconds, {"lost": count}, zone)


def _line(kind: str, at_unix_seconds: float, data: dict[str, object], zone: tzinfo) -> bytes:
    at = datetime.fromtimestamp(at_unix_seconds, UTC).astimezone(zone)
    row = {
        "timestamp": at.isoformat(timespec="milliseconds"),
        "timestamp_unix": round(at_unix_seconds, 6),
        "event_type": kind,
        "data": data,
    }
    return msgspec.json.encode(row) + b"\n"
