"""What is known of Apple's GPUs without asking them."""

import re

_FAMILIES = {"M1": "apple7", "M2": "apple8", "M3": "apple9", "M4": "apple9"}
"""As Apple's table of Metal's features calls them, by generation of the chip."""


def metal_family(chip_name: str | None) -> str | None:
    """The family of a chip's GPU; None for a chip that is not in the table."""
    generation = re.search(r"\bM\d+\b", chip_name or "")
    return _FAMILIES.get(generation[0]) if generation is not None else None
