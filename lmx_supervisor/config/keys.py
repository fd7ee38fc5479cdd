"""Every configuration key as data, read off the schema: its type in words, bounds, default and comment.

Loading, the annotated file and `config show` all work from this list, so none of them can miss a key.
"""

import ast
import difflib
import inspect
import math
from functools import cache
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT
from msgspec.inspect import (
    BoolType,
    DictType,
    FloatType,
    IntType,
    LiteralType,
    NoneType,
    StrType,
    Type,
    UnionType,
    VarTupleType,
)

from lmx_supervisor.config import schema
from lmx_supervisor.config.schema import Config, Secret

_SIMILAR_ENOUGH_RATIO = 0.6


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration key."""

    section: str
    name: str
    annotation: Any
    """The Python type of the value, with its bounds."""
    default: Any
    comment: str
    expected: str
    """What a value must be, in words, for error messages and comments."""
    secret: bool

    @property
    def dotted(self) -> str:
        """`section.name`, as files, flags and error messages write it."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """`LMX_SECTION__NAME`, as the environment writes it."""
        return variable_of(self.dotted)


def variable_of(dotted: str) -> str:
    """The variable that says what this key says."""
    section, _, name = dotted.partition(".")
    return f"LMX_{section}__{name}".upper()


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted name, in the order of the schema."""
    comments = _comments()
    keys: dict[str, Key] = {}
    for section in msgspec.structs.fields(Config):
        for field in msgspec.structs.fields(section.type):
            default = field.default if field.default is not NODEFAULT else field.default_factory()
            key = Key(
                section=section.name,
                name=field.name,
                annotation=field.type,
                default=default,
                comment=comments.get((section.type.__name__, field.name), ""),
                expected=in_words(msgspec.inspect.type_info(field.type)),
                secret=Secret in get_args(field.type),
            )
            keys[key.dotted] = key
    return keys


@cache
def all_sections() -> dict[str, str]:
    """Every section's name and comment, in the order of the schema."""
    return {field.name: inspect.getdoc(field.type) or "" for field in msgspec.structs.fields(Config)}


def nearest_key(section: str, name: str) -> str | None:
    """The known dotted key that `section.name` was probably meant to be, or None when nothing is close."""

    def likeness(key: Key) -> float:
        same_section = 0.25 if key.section == section else 0.0
        return difflib.SequenceMatcher(None, name, key.name).ratio() + same_section

    best = max(all_keys().values(), key=likeness)
    return best.dotted if likeness(best) >= _SIMILAR_ENOUGH_RATIO + (0.25 if best.section == section else 0.0) else None


def nearest_section(name: str) -> str | None:
    """The section that `name` was probably meant to be; a key written without its section is found too."""
    close = difflib.get_close_matches(name, all_sections(), n=1, cutoff=_SIMILAR_ENOUGH_RATIO)
    return close[0] if close else nearest_key("", name)


def in_words(kind: Type) -> str:
    """What a value of this type must be, for people."""
    match kind:
        case UnionType(types=types):
            return " or ".join(in_words(member) for member in types)
        case LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case NoneType():
            return "null"
        case BoolType():
            return "true or false"
        case IntType():
            return "a whole number" + _range_in_words(kind)
        case FloatType():
            return "a number" + _range_in_words(kind)
        case StrType(pattern=None):
            return "a text"
        case StrType():
            return "a text of printable ASCII characters without spaces"
        case VarTupleType(item_type=item):
            return f"a list, each entry {in_words(item)}"
        case DictType(value_type=value):
            return f"a map, each value {in_words(value)}"
        case _:
            raise TypeError(f"the schema uses {kind}, which nothing here can describe")


def literal_spelling(annotation: Any, value: Any) -> Any:
    """`value` in the schema's own capitals where the key is a choice of words: `debug` means DEBUG."""
    if get_origin(annotation) is Literal and isinstance(value, str):
        return next((choice for choice in get_args(annotation) if choice.lower() == value.lower()), value)
    return value


def _range_in_words(kind: IntType | FloatType) -> str:
    low = [f"over {kind.gt:g}"] if kind.gt is not None else [f"at least {_plain(kind.ge)}"] if kind.ge is not None else []
    high = [f"at most {_plain(kind.le)}"] if kind.le is not None else []
    return (", " if low or high else "") + " and ".join(low + high)


def _plain(number: float) -> str:
    return str(math.floor(number)) if number == math.floor(number) else str(number)


def _comments() -> dict[tuple[str, str], str]:
    """The docstring under each field of the schema, by (class, field). Python keeps them in the source only."""
    comments: dict[tuple[str, str], str] = {}
    for class_node in ast.parse(inspect.getsource(schema)).body:
        if not isinstance(class_node, ast.ClassDef):
            continue
        for field, after in zip(class_node.body, class_node.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    comments[class_node.name, name] = inspect.cleandoc(text)
    return comments
