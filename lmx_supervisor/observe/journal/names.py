"""How the files of the journals are called, and what their names tell. Pure."""

import re
from datetime import datetime, tzinfo

from lmx_protocol import limits

FIRST_UPDATE_NUMBER = 200
"""Where the predecessor began."""

_UNSAFE = re.compile(r"[^a-z0-9]+")
_SESSION = re.compile(r"(\d{4}-\d{2}-\d{2}-\d{4})-[a-z0-9-]+\.md")
_EVENTS = re.compile(r"(\d{4}-\d{2}-\d{2}-\d{6})-[a-z0-9-]+\.jsonl")
_UPDATE = re.compile(r"(\d{3,12})_\d{4}-\d{2}-\d{2}_[a-z0-9-]+\.md")
_SERVED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.(md|jsonl)")


def slug(text: str) -> str:
    """A text as part of a file name, never empty."""
    plain = _UNSAFE.sub("-", text.lower()).strip("-")[: limits.JOURNAL_SLUG_CHARACTERS_MAX].strip("-")
    return plain or "x"


def session_name(at: datetime, device: str, attempt: int) -> str:
    """The session log of a service that started at this moment; `attempt` counts names that were taken, from 1."""
    return f"{at:%Y-%m-%d-%H%M}-{slug(device)}-lmx-service{_suffix(attempt)}.md"


def events_name(at: datetime, device: str, attempt: int) -> str:
    """The events of the same session, or of its next part."""
    return f"{at:%Y-%m-%d-%H%M%S}-{slug(device)}-events{_suffix(attempt)}.jsonl"


def update_name(number: int, at: datetime, title: str) -> str:
    """An update log; its number has three digits or more."""
    return f"{number:03d}_{at:%Y-%m-%d}_{slug(title)}.md"


def is_session_log(name: str) -> bool:
    """Whether this is one of our session logs."""
    return _SESSION.fullmatch(name) is not None


def is_event_log(name: str) -> bool:
    """Whether this is one of our event logs."""
    return _EVENTS.fullmatch(name) is not None


def update_number(name: str) -> int | None:
    """The number of an update log; None for any other file."""
    match = _UPDATE.fullmatch(name)
    return int(match[1]) if match else None


def may_be_served(name: str) -> bool:
    """Whether a name is one that a journal's directory may be asked for: a plain file name, no way to another place."""
    return _SERVED.fullmatch(name) is not None


def began_at(name: str, zone: tzinfo) -> datetime | None:
    """When the session of a file began; None for a file whose name does not say."""
    for pattern, form in ((_SESSION, "%Y-%m-%d-%H%M"), (_EVENTS, "%Y-%m-%d-%H%M%S")):
        match = pattern.fullmatch(name)
        if match:
            try:
                return datetime.strptime(match[1], form).replace(tzinfo=zone)
            except ValueError:  # the 99th of a month
                return None
    return None


def _suffix(attempt: int) -> str:
    return "" if attempt == 1 else f"-{attempt}"
