"""Text that is parsed while it arrives: what every parser of answers reads from.

Parsers are generators (`pieces.Steps`): where they need more text than there is, they yield None and are resumed with more. So
a parser reads like one for whole texts, and because every method here waits until its result no longer depends on what may
follow, the way a text was cut into pieces cannot change what comes out.

What was read stays known until it is settled: a parser that fails raises `MalformedError`, and everything since then is read
again, as plain text. So nothing that the model said is lost.
"""

import re
from collections.abc import Callable, Sequence

from lmx_worker.text.pieces import Piece, Steps

UNSETTLED_CHARACTERS_MAX = 16_384
"""How much a parser may read without being sure of it; bounds what a failed attempt costs."""

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[\w./:-]*")
NAME_CHARACTERS_MAX = 256


class MalformedError(Exception):
    """This is not what the parser is for."""


class Source:
    """The text of one answer, from the first character that is not settled to the last that has arrived."""

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._has_ended = False
        self.settlements = 0
        """Grows whenever something was settled."""
        self.is_thinking = False
        """Whether what comes next is reasoning; set by those who read it."""

    # --- the writer's side ----------------------------------------------------------------------------------------------

    def feed(self, text: str) -> None:
        """More text has arrived."""
        self._text += text

    def end(self) -> None:
        """No more text will come."""
        self._has_ended = True

    # --- where the reader is --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """What was read is final: it will not be read again."""
        self._text = self._text[self._position :]
        self._position = 0
        self.settlements += 1

    def rewind(self) -> None:
        """Go back to the first character that is not settled."""
        self._position = 0

    # --- reading --------------------------------------------------------------------------------------------------------

    def peek(self) -> Steps[str]:
        """The next character, without reading it; empty at the end."""
        while self._position == len(self._text) and not self._has_ended:
            yield None
        return self._text[self._position : self._position + 1]

    def character(self) -> Steps[str]:
        """The next character. Raises `MalformedError` at the end."""
        character = yield from self.peek()
        if not character:
            raise MalformedError
        self._advance(1)
        return character

    def accept(self, literal: str) -> Steps[bool]:
        """Read this literal if it is what comes next; whether it was."""
        return (yield from self.accept_any((literal,))) is not None

    def accept_any(self, literals: Sequence[str]) -> Steps[str | None]:
        """Read the longest of these literals that comes next, or nothing."""
        while True:
            rest = self._text[self._position :]
            if self._has_ended or not any(len(literal) > len(rest) and literal.startswith(rest) for literal in literals):
                break
            yield None
        found = max((literal for literal in literals if rest.startswith(literal)), key=len, default=None)
        if found is not None:
            self._advance(len(found))
        return found

    def expect(self, literal: str) -> Steps[None]:
        """Read this literal. Raises `MalformedError` when something else comes."""
        if not (yield from self.accept(literal)):
            raise MalformedError

    def matching(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Read the characters that the pattern, which is a repeated class of characters, matches; possibly none."""
        while True:
            match = pattern.match(self._text, self._position)
            assert match is not None, "a pattern here also matches nothing"
            if match.end() < len(self._text) or self._has_ended:
                break
            yield None
        self._advance(match.end() - self._position)
        return match.group()

    def skip_space(self) -> Steps[None]:
        """Read white space, if any."""
        yield from self.matching(_SPACE)

    def name(self) -> Steps[str]:
        """Read the name of a tool or of an argument. Raises `MalformedError` when there is none."""
        name = yield from self.matching(_NAME)
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            raise MalformedError
        return name

    def until(self, literal: str, *, characters_max: int = UNSETTLED_CHARACTERS_MAX) -> Steps[str]:
        """Read up to this literal, and it; returns what was before it. Raises `MalformedError` when it does not come."""
        while (at := self._text.find(literal, self._position)) < 0:
            if self._has_ended or len(self._text) - self._position > characters_max:
                raise MalformedError
            yield None
        text = self._text[self._position : at]
        self._position = at + len(literal)
        return text

    def flow(
        self, piece: Callable[[str], Piece], markers: Sequence[str], *, trim: Callable[[str], str] = str.rstrip
    ) -> Steps[str | None]:
        """Pass text on, as pieces of this kind, until one of the markers comes; returns it, or None at the end of the text.

        The text is settled. The marker is read but not settled, nor is what `trim` takes off the end of the text before it. No
        marker may be a part of another one.
        """
        while True:
            at, marker = self._first(markers)
            final_to = at if marker else self._final_to(markers)
            if marker or (markers and not self._has_ended):
                final_to = self._position + len(trim(self._text[self._position : final_to]))
            if text := self._text[self._position : final_to]:
                yield piece(text)
                self._position = final_to
                self.settle()
                at -= final_to
            if marker:
                self._position = at + len(marker)
                return marker
            if self._has_ended:
                return None
            yield None

    def _first(self, markers: Sequence[str]) -> tuple[int, str]:
        """Where the first of the markers begins, and which; the longest of those that begin there."""
        found = [(at, -len(marker), marker) for marker in markers if (at := self._text.find(marker, self._position)) >= 0]
        at, _, marker = min(found, default=(-1, 0, ""))
        return at, marker

    def _final_to(self, markers: Sequence[str]) -> int:
        """Where the text begins that may still become a marker."""
        if self._has_ended:
            return len(self._text)
        return min((partial_match_start(self._text, marker) for marker in markers), default=len(self._text))

    def _advance(self, characters: int) -> None:
        self._position += characters
        if self._position > UNSETTLED_CHARACTERS_MAX:
            raise MalformedError


def partial_match_start(text: str, literal: str) -> int:
    """Where the longest end of `text` begins that is a beginning of `literal`; `len(text)` when there is none."""
    start = text.find(literal[0], max(0, len(text) - len(literal) + 1))
    while start >= 0:
        if literal.startswith(text[start:]):
            return start
        start = text.find(literal[0], start + 1)
    return len(text)
