"""What an answer is made of, piece by piece: said, thought, and calls of tools. What every parser here yields."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model calls this tool. `call_id` is empty where its format carries none."""

    name: str
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the JSON text of the call that was begun last."""

    text: str


Piece = Said | Thought | CallBegun | CallArguments

Steps: TypeAlias = Generator[Piece | None, None, _Result]
"""A parser that is written as if the whole text were there: it yields pieces as they become final, and None for "more text"."""
