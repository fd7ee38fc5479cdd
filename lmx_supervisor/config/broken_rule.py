"""What is said of configuration values that do not go together."""

import msgspec


class BrokenRule(msgspec.Struct, frozen=True):
    """The key to change, the other key it clashes with (or the same one), and why."""

    key: str
    clashes_with: str
    reason: str
