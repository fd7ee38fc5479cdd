"""docs/operations.md as data: its sections, their commands, and the answers that stand beside them."""

import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "operations.md"
NOT_RUN = Path(__file__).parents[1] / "README.md"
BASE_URL = "http://127.0.0.1:1234"
UNDER_PRESSURE = ("3.2", "3.6", "5.1")
"""The sections that are for want of memory, and need a machine that lacks it."""

_HEADING = re.compile(r"#{2,3} (?P<number>\d(?:\.\d+)?|Appendix [AB])\b")
_SETTING = re.compile(r"(?P<key>[a-z_]+\.[a-z_]+): (?P<value>\{.*?\}|\[.*?\]|[^,]+)(?:, |$)")
_EDIT = "# Edit config: "
_MORE = re.compile(r",\s*\.\.\.(?=\s*[\]}])")


@dataclass(frozen=True)
class Command:
    """One command as it stands in the page."""

    section: str
    number: int
    """In its section, from 1."""
    text: str
    answer: Any = None
    """The JSON that stands below it: the shape of what it must print."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the configuration that the page says to change before."""

    @property
    def name(self) -> str:
        """How the list in tests/README.md calls it."""
        return f"{self.section}/{self.number}"

    @property
    def is_curl(self) -> bool:
        """Whether it asks the server over HTTP."""
        return self.text.startswith("curl ")

    @property
    def short(self) -> str:
        """Method and path of a curl command, else its first line."""
        if not self.is_curl:
            return self.text.splitlines()[0]
        words = shlex.split(self.text)
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        url = next(word for word in words if word.startswith(BASE_URL))
        return f"{method} {url.removeprefix(BASE_URL).partition('?')[0]}"


@cache
def sections() -> dict[str, list[Command]]:
    """The commands of every section that has some, by its number, in the order of the page."""
    found: dict[str, list[Command]] = {}
    for number, language, text in _blocks(PAGE.read_text(encoding="utf-8")):
        if language == "bash":
            so_far = found.setdefault(number, [])
            so_far += _commands(number, len(so_far), text)
    return found


def all_commands() -> list[Command]:
    """Every command of the page."""
    return [command for commands in sections().values() for command in commands]


def not_run() -> dict[str, str]:
    """What tests/README.md lists as not run: the command's name → what it does in short."""
    rows = re.findall(r"^\| (?P<name>[\dAB.]+/\d+) \| `(?P<short>.+?)` \| .+ \|$", NOT_RUN.read_text(), re.MULTILINE)
    return {name: short.replace("\\|", "|") for name, short in rows}


def typed(section: str) -> list[Command]:
    """The commands of a section that a test types."""
    listed = not_run()
    return [command for command in sections()[section] if command.name not in listed]


def text_of(section: str) -> str:
    """A section as it stands in the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begins = next(index for index, line in enumerate(lines) if line.startswith(f"### {section} "))
    ends = next((index for index, line in enumerate(lines) if index > begins and line.startswith("##")), len(lines))
    return "\n".join(lines[begins:ends])


def block_of(section: str, language: str) -> str:
    """The one block of this language in a section."""
    [text] = [text for number, kind, text in _blocks(PAGE.read_text(encoding="utf-8")) if (number, kind) == (section, language)]
    return text


def _blocks(page: str) -> list[tuple[str, str, str]]:
    """Section, language and text of every fenced block."""
    blocks = []
    section, language, lines = "", None, list[str]()
    for line in page.splitlines():
        heading = _HEADING.match(line) if language is None else None
        if heading:
            section = heading["number"].removeprefix("Appendix ")
        elif line.startswith("```") and language is None:
            language, lines = line.removeprefix("```"), []
        elif line == "```" and language is not None:
            blocks.append((section, language, "\n".join(lines)))
            language = None
        elif language is not None:
            lines.append(line)
    return blocks


def _commands(section: str, before: int, text: str) -> list[Command]:
    commands: list[Command] = []
    settings: dict[str, Any] = {}
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if line.startswith(_EDIT):
            settings |= {found["key"]: json.loads(_quoted(found["value"])) for found in _SETTING.finditer(line, len(_EDIT))}
        if not line.strip() or line.startswith("#"):
            continue
        while not _is_whole(line):
            line += "\n" + lines.pop(0)
        number = before + len(commands) + 1
        commands.append(Command(section, number, line, _answer(lines), settings))
        settings = {}
    return commands


def _quoted(value: str) -> str:
    """A plain word of YAML as JSON."""
    return value if re.fullmatch(r"[\[{\d].*|true|false|null", value) else json.dumps(value)


def _is_whole(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def _answer(lines: list[str]) -> Any:
    """The JSON in the comment that follows a command; None when it is another comment, or nothing."""
    if not lines or not lines[0].startswith(("# {", "# [")):
        return None
    text = ""
    while lines and lines[0].startswith("# "):
        text += lines.pop(0).removeprefix("#")
        try:
            return json.loads(_MORE.sub("", text))
        except ValueError:
            continue
    raise AssertionError(f"docs/operations.md: this is no JSON: {text}")


def misfit(documented: Any, real: Any, place: str = "the answer") -> str | None:
    """Where an answer is not as it is documented, in words; None when it fits.

    Texts fit themselves, with `...` for anything; numbers fit numbers, null fits everything; each entry of a list fits the one
    that is documented, or the one in its place where several are; more keys than the documented are welcome.
    """
    match documented:
        case dict():
            if not isinstance(real, dict):
                return f"{place} is {real!r}, not an object"
            missing = documented.keys() - real.keys()
            if missing:
                return f"{place} has no {', '.join(sorted(missing))}: {real!r}"
            return _first(misfit(value, real[key], f"{place}.{key}") for key, value in documented.items())
        case list():
            wanted = documented * len(real) if len(documented) == 1 and isinstance(real, list) else documented
            if not isinstance(real, list) or (wanted and len(wanted) != len(real)) or (documented and not real):
                return f"{place} is {real!r}, not a list like {documented!r}"
            pairs = enumerate(zip(wanted, real, strict=False))
            return _first(misfit(want, one, f"{place}[{index}]") for index, (want, one) in pairs)
        case str():
            pattern = ".*".join(re.escape(part) for part in documented.split("..."))
            fits = isinstance(real, str) and re.fullmatch(pattern, real, re.DOTALL)
            return None if fits else f"{place} is {real!r}, not {documented!r}"
        case bool():
            return None if real is documented else f"{place} is {real!r}, not {documented!r}"
        case int() | float():
            return (
                None if isinstance(real, int | float) and not isinstance(real, bool) else f"{place} is {real!r}, not a number"
            )
        case _:
            return None


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem is not None), None)
