"""The one exception for a configuration that cannot be used."""

_WHAT_TO_DO = "remove it, or look for the right one in docs/configuration.md"


class ConfigError(Exception):
    """A configuration value, key or file that stops the start; its text is one line for the operator."""

    def __init__(self, source: str, key: str | None, reason: str, *, suggestion: str | None = None) -> None:
        """`source` is a file's path, "environment" or "command line"; `key` is as the operator wrote it there."""
        place = f"{source}: {key}" if key else source
        hint = f"; did you mean '{suggestion}'?" if suggestion else ""
        super().__init__(f"{place}: {reason}{hint}")
        self.source = source
        self.key = key
        self.reason = reason
        self.suggestion = suggestion


def unknown(source: str, key: str, what: str, suggestion: str | None) -> ConfigError:
    """What is said of a key or section (`what`) that does not exist: which was probably meant, or where to look for it."""
    reason = f"unknown {what}" if suggestion else f"unknown {what}; {_WHAT_TO_DO}"
    return ConfigError(source, key, reason, suggestion=suggestion)
