"""KEY=VALUE on the command line, as a table of settings."""

from collections.abc import Sequence
from typing import Any

import msgspec

from lmx_supervisor.cli.failures import UsageFailure


def read_settings(given: Sequence[str]) -> dict[str, Any]:
    """The settings as they are sent: a value is JSON where it can be, else the text itself; `a.b=1` sets `b` within `a`.

    Raises `UsageFailure` for what is no setting; which settings exist is for the server to say.
    """
    table: dict[str, Any] = {}
    for setting in given:
        key, equals, text = setting.partition("=")
        *groups, name = key.strip().split(".")
        if not equals or not all((*groups, name)):
            raise UsageFailure(f"a setting is KEY=VALUE, for example slots=8, and not {setting!r}")
        inner = table
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UsageFailure(f"{group} is set, and something within it as well; one of them has to go")
        inner[name] = _value(text)
    return table


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
