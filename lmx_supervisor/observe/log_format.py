"""Log records as lines: JSON for machines, text for people. Bounded, free of secrets, and always exactly one record per line.

Client-supplied names end up in logs, so a line break or escape sequence in them must not be able to fake a line or drive a
terminal.
"""

import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_supervisor.config.redact import REDACTED

_STANDARD_ATTRIBUTES = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "uptime_seconds"}
)  # fmt: skip
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NESTING_MAX = 8


class Redaction:
    """Strikes the configured secrets out of text, also where they were quoted by JSON or repr."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._spellings: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Strike these too from now on; the ones before stay secret, for they may still be in use elsewhere."""
        self._spellings |= {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        # The longest first: one secret may begin like another.
        longest_first = sorted(self._spellings, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def strike(self, text: str) -> str:
        """The text without secrets."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(REDACTED, text)

    def clean(self, text: str) -> str:
        """The text without secrets and lone surrogates, at most `LOG_TEXT_CHARACTERS_MAX` long."""
        text = self.strike(text)
        if len(text) > limits.LOG_TEXT_CHARACTERS_MAX:
            half = limits.LOG_TEXT_CHARACTERS_MAX // 2
            # Both ends tell something: a message begins with what it is about, a traceback ends with it.
            text = f"{text[:half]}…[{len(text) - 2 * half} characters]…{text[-half:]}"
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

    def clean_value(self, value: Any, nesting: int = 0) -> Any:
        """The same for a field of any type; what JSON has no form for becomes its text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if nesting < _NESTING_MAX and isinstance(value, dict):
            return {self.clean(str(key)): self.clean_value(item, nesting + 1) for key, item in value.items()}
        if nesting < _NESTING_MAX and isinstance(value, list | tuple):
            return [self.clean_value(item, nesting + 1) for item in value]
        return self.clean(str(value))


class JsonLines(logging.Formatter):
    """`{"time", "uptime_seconds", "level", "logger", "message", …extra fields…, "exception"}`."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        clean = self._redaction.clean
        line: dict[str, Any] = {
            "time": _time(record),
            "uptime_seconds": round(getattr(record, "uptime_seconds", 0.0), 3),
            "level": record.levelname,
            "logger": record.name,
            "message": clean(record.getMessage()),
        }
        for name, value in _extra_fields(record).items():
            line[f"extra_{name}" if name in line else name] = self._redaction.clean_value(value)
        if exception := _exception(record):
            line["exception"] = clean(exception)
        return msgspec.json.encode(line).decode()


class ReadableLines(logging.Formatter):
    """`time LEVEL logger: message key=value …`, and the traceback below it."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end, or several with a traceback."""
        clean = self._redaction.clean
        fields = "".join(f" {name}={self._redaction.clean_value(value)}" for name, value in _extra_fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {clean(record.getMessage())}{fields}"
        exception = _exception(record)
        below = "".join(f"\n    {_one_line(text)}" for text in clean(exception).splitlines()) if exception else ""
        return _one_line(line) + below


def _time(record: logging.LogRecord) -> str:
    return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_info and not record.exc_text:
        return logging.Formatter().formatException(record.exc_info)
    return record.exc_text


def _extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}


def _one_line(text: str) -> str:
    return _CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _spellings(secret: str) -> set[str]:
    return {secret, msgspec.json.encode(secret).decode()[1:-1], repr(secret)[1:-1]}
