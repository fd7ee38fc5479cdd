"""The exit statuses of `lmx`, for scripts; docs/cli.md lists them."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    """The server refused or failed, an answer was cut off, a check did not pass."""
    USAGE = 2
    NO_SERVER = 3
    INTERRUPTED = 130
