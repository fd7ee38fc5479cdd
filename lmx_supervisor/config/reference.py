"""The tables of docs/configuration.md, from what reads the configuration, so that they cannot go stale.

`python -m lmx_supervisor.config.reference docs/configuration.md` renews them; a test compares.
"""

import sys
from pathlib import Path

import msgspec

from lmx_supervisor.config.keys import Key, all_keys, all_sections
from lmx_supervisor.config.predecessor import LATER_SECTIONS, OLD_KEYS, Always, Idle, OldKey, Renamed
from lmx_supervisor.config.reloading import LIVE_KEYS

BEGIN = "<!-- generated: python -m lmx_supervisor.config.reference docs/configuration.md -->\n"
END = "<!-- end of what is generated -->\n"


def renewed(page: str) -> str:
    """The page with the tables as they should be. Raises `ValueError` when it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no place for the tables")
    return before + BEGIN + tables() + END + after


def tables() -> str:
    """Every section with its keys, then the predecessor's keys."""
    return "".join(_section(name, comment) for name, comment in all_sections().items()) + _old_keys()


def _section(name: str, comment: str) -> str:
    head = f"\n### {name}\n\n{_flat(comment)}\n\n| key | default | what | |\n| --- | --- | --- | --- |\n"
    return head + "".join(_row(key) for key in all_keys().values() if key.section == name)


def _row(key: Key) -> str:
    live = "live" if key.dotted in LIVE_KEYS else ""
    return (
        f"| `{key.name}` | `{msgspec.json.encode(key.default).decode()}` | {_flat(key.comment)} ({key.expected}) | {live} |\n"
    )


def _old_keys() -> str:
    rows = [(f"`{name}`", _became(old)) for name, old in OLD_KEYS.items()]
    rows += [(f"`{name}` (section)", f"refused: {why}") for name, why in LATER_SECTIONS.items()]
    return "\n### Keys of the predecessor\n\n| key | here |\n| --- | --- |\n" + "".join(
        f"| {name} | {_flat(became)} |\n" for name, became in rows
    )


def _became(old: OldKey) -> str:
    match old:
        case Renamed(to=to):
            return f"read as `{to}`"
        case Always(value=value, why=why):
            return f"`{msgspec.json.encode(value).decode()}` is taken, anything else refused: {why}"
        case Idle(why=why):
            return f"taken, without effect: {why}"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    page_path = Path(sys.argv[1])
    page_path.write_text(renewed(page_path.read_text(encoding="utf-8")), encoding="utf-8")
