"""Where LMX keeps its files."""

import os
from pathlib import Path


def home_directory() -> Path:
    """`LMX_HOME`, else `~/.opta-lmx`. Not created here."""
    return Path(os.environ.get("LMX_HOME") or "~/.opta-lmx").expanduser().absolute()
