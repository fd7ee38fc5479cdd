"""The `config.yaml` that `lmx config init` writes: every key with its comment, bounds and default.

Generated from the schema, so it cannot go stale. Every key is commented out: a default that a later version improves must
not be frozen in everybody's file.
"""

import textwrap

import msgspec

from lmx_supervisor.config.keys import Key, all_keys, all_sections

_COMMENT_COLUMNS = 100
_HEADER = """\
# LMX configuration. Remove the `#` before a key to change it; what is written here is the default.
# Order of precedence: command line, environment (LMX_SECTION__KEY), this file, default.
"""


def annotated_config() -> str:
    """The whole file as text; loading it as it is changes nothing."""
    return _HEADER + "".join(_section(name, comment) for name, comment in all_sections().items())


def _section(name: str, comment: str) -> str:
    keys = (key for key in all_keys().values() if key.section == name)
    return f"\n# {comment}\n{name}:\n" + "\n".join(_entry(key) for key in keys)


def _entry(key: Key) -> str:
    comment = f"{key.comment} ({key.expected})" if key.comment else key.expected[0].upper() + key.expected[1:]
    lines = [f"  # {line}" for line in textwrap.wrap(comment, _COMMENT_COLUMNS)]
    # JSON is YAML, and spells every default in one line.
    return "\n".join([*lines, f"  # {key.name}: {msgspec.json.encode(key.default).decode()}", ""])
