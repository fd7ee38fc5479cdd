"""One record, one line, no secrets."""

import json
import logging
import sys
from typing import Any

import pytest

from lmx_protocol import limits
from lmx_supervisor.observe.log_format import JsonLines, ReadableLines, Redaction


def record_of(message: str, *, extra: dict[str, Any] | None = None, error: BaseException | None = None) -> logging.LogRecord:
    """A record as the logging module would make it."""
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("lmx.test", logging.WARNING, "file.py", 1, message, None, exc_info)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    vars(record).update(extra or {})
    return record


def test_a_json_line_has_the_documented_fields() -> None:
    """Time in UTC, seconds since the start, level, logger, message, then what the call added."""
    line = JsonLines(Redaction([])).format(record_of("loaded", extra={"uptime_seconds": 1.23456, "model": "org/name", "n": 3}))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "uptime_seconds": 1.235,
        "level": "WARNING",
        "logger": "lmx.test",
        "message": "loaded",
        "model": "org/name",
        "n": 3,
    }


def test_a_field_cannot_pose_as_a_standard_one() -> None:
    """An extra field called like a standard one is kept beside it."""
    line = json.loads(JsonLines(Redaction([])).format(record_of("x", extra={"level": 3})))
    assert (line["level"], line["extra_level"]) == ("WARNING", 3)


@pytest.mark.parametrize("value", [object(), b"bytes", {1: {2: "x"}}, [float("nan")], 2**70, "\ud800", {"a"}, ValueError("x")])
def test_any_value_can_be_logged(value: Any) -> None:
    """A field of any type becomes valid JSON and readable text."""
    record = record_of("x \udfff", extra={"value": value})
    assert "value" in json.loads(JsonLines(Redaction([])).format(record))
    ReadableLines(Redaction([])).format(record).encode()


def test_circular_values_end() -> None:
    """A structure that holds itself is cut off instead of followed for ever."""
    circle: list[Any] = []
    circle.append(circle)
    assert json.loads(JsonLines(Redaction([])).format(record_of("x", extra={"circle": circle})))


@pytest.mark.parametrize("formatter", [JsonLines, ReadableLines])
def test_client_text_cannot_fake_a_line(formatter: type[JsonLines | ReadableLines]) -> None:
    """Line breaks, escape sequences and Unicode line separators in names end up escaped."""
    evil = "x\n2023 ERROR lmx: faked\r\x1b[2J\u2028\x85"
    line = formatter(Redaction([])).format(record_of(evil, extra={"model": evil}))
    assert "\n" not in line
    assert "\r" not in line
    assert "\x1b" not in line


@pytest.mark.parametrize("formatter", [JsonLines, ReadableLines])
def test_secrets_are_struck_out_everywhere(formatter: type[JsonLines | ReadableLines]) -> None:
    """Message, field, nested field, field name and traceback: no spelling of a secret survives, the longer one first."""
    secrets = ["hush", "hush-hush", 'quo"te\\d']
    error = RuntimeError(f"cannot use {secrets}")
    extra = {"a": "hush-hush", "b": {"hush": [secrets[2]]}, "c": json.dumps(secrets[2])}
    line = formatter(Redaction(secrets)).format(record_of(f"key {secrets}", extra=extra, error=error))
    assert "hush" not in line
    assert "te\\" not in line
    assert "[redacted]-" not in line


def test_long_texts_keep_both_ends() -> None:
    """A record is bounded, and its beginning and end stay readable."""
    text = "a" * limits.LOG_TEXT_CHARACTERS_MAX + "end"
    message = json.loads(JsonLines(Redaction([])).format(record_of(text)))["message"]
    assert len(message) < limits.LOG_TEXT_CHARACTERS_MAX + 100
    assert message.startswith("aaa")
    assert message.endswith("end")


def test_readable_lines_show_the_traceback_below() -> None:
    """People get the fields behind the message and the traceback indented, so that grep finds whole records."""
    try:
        json.loads("{")
    except ValueError:
        error = sys.exc_info()[1]
    lines = ReadableLines(Redaction([])).format(record_of("failed", extra={"model": "m"}, error=error)).splitlines()
    assert lines[0] == "2023-11-14T22:13:20.250Z WARNING lmx.test: failed model=m"
    assert all(line.startswith("    ") for line in lines[1:])
    assert "JSONDecodeError" in lines[-1]


def test_secrets_learned_later_are_struck_out_too() -> None:
    """After a change of keys both the old and the new one stay out of the log; long texts for evidence are not shortened."""
    redaction = Redaction(["old-key"])
    redaction.learn(["new-key"])
    long = "x" * (2 * limits.LOG_TEXT_CHARACTERS_MAX)
    assert redaction.clean("old-key new-key") == "[redacted] [redacted]"
    assert redaction.strike(f"{long} new-key") == f"{long} [redacted]"
