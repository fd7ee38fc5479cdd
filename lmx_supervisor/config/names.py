"""Names that a request may use for a model beside its id, and which of them are taken by LMX itself."""

AUTO = "auto"
"""Any model that is served, the default one first."""

PRESET_PREFIX = "preset:"
"""Begins the name of a preset."""


def why_no_alias(name: str) -> str | None:
    """Why a name cannot be an alias; None when it can."""
    if name == AUTO:
        return f"`{AUTO}` stands for any model that is served"
    return f"`{PRESET_PREFIX}` begins the name of a preset" if name.startswith(PRESET_PREFIX) else None
