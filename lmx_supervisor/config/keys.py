"""Every configuration key as data, read off the schema: its type in words, bounds, default and comment.

Loading, the annotated file and `config show` all work from this list, so none of them can miss a key.
"""

import ast
import difflib
import inspect
import math
from collections.abc import Iterator
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
    StructType,
    Type,
    UnionType,
    VarTupleType,
)

from lmx_supervisor.config import schema
from lmx_supervisor.config.schema import (
    DIGEST_PATTERN,
    KEY_PATTERN,
    NAME_PATTERN,
    Config,
    Secret,
    SecretDigest,
    Section,
)

_SIMILAR_ENOUGH_RATIO = 0.6
_SECRET_TYPES = (Secret, SecretDigest)
_TEXTS_IN_WORDS: dict[str | None, str] = {
    None: "a text",
    KEY_PATTERN: "a text of printable ASCII characters without spaces",
    DIGEST_PATTERN: "64 hexadecimal digits in small letters",
    NAME_PATTERN: "a name of letters, digits, dots, dashes and underscores",
}


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration key."""

    section: str
    name: str
    """Within its section; dotted where the section has a section of its own: `rate_limit.enabled`."""
    annotation: Any
    """The Python type of the value, with its bounds."""
    default: Any
    comment: str
    expected: str
    """What a value must be, in words, for error messages and comments."""
    secret: bool
    """The value is, or holds, something that must not be shown."""

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
    return f"LMX_{dotted.replace('.', '__')}".upper()


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted name, in the order of the schema."""
    comments = _comments()
    return {key.dotted: key for section in msgspec.structs.fields(Config) for key in _keys_of(section, comments)}


def _keys_of(section: msgspec.structs.FieldInfo, comments: dict[tuple[str, str], str]) -> Iterator[Key]:
    for name, field, comment in _fields_of(section.type, "", comments):
        yield Key(
            section=section.name,
            name=name,
            annotation=field.type,
            default=field.default if field.default is not NODEFAULT else field.default_factory(),
            comment=comment,
            expected=in_words(msgspec.inspect.type_info(field.type)),
            secret=holds_secret(field.type),
        )


def _fields_of(
    kind: type[Section], prefix: str, comments: dict[tuple[str, str], str]
) -> Iterator[tuple[str, msgspec.structs.FieldInfo, str]]:
    for field in msgspec.structs.fields(kind):
        if is_section(field.type):
            yield from _fields_of(field.type, f"{prefix}{field.name}.", comments)
        else:
            yield f"{prefix}{field.name}", field, comments.get((kind.__name__, field.name), "")


def is_section(annotation: Any) -> bool:
    """Whether a field is a section, whose fields are keys, and no key itself."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def holds_secret(annotation: Any) -> bool:
    """Whether values of this type are secret, or have a part that is."""
    if annotation in _SECRET_TYPES:
        return True
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return any(holds_secret(field.type) for field in msgspec.structs.fields(annotation))
    return any(holds_secret(part) for part in get_args(annotation))


def takes_text(annotation: Any) -> bool:
    """Whether values of this type are written as text of one's own, not as one of some words."""
    kind = msgspec.inspect.type_info(annotation)
    return any(isinstance(member, StrType) for member in (kind.types if isinstance(kind, UnionType) else (kind,)))


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
        case StrType(pattern=pattern):
            return _TEXTS_IN_WORDS[pattern]
        case VarTupleType(item_type=item):
            return f"a list, each entry {in_words(item)}"
        case StructType(fields=fields):
            return "a map with " + ", ".join(field.name for field in fields)
        case DictType(value_type=value):
            return f"a map, each value {in_words(value)}"
        case _:
            raise TypeError(f"the schema uses {kind}, which nothing here can describe")


def name_in_words(annotation: Any) -> str:
    """What the name of a map's entry must be, for people."""
    kind = msgspec.inspect.type_info(annotation)
    assert isinstance(kind, StrType), "entries are named by texts"
    most = f", of at most {kind.max_length} characters" if kind.max_length is not None else ""
    return ("a text that is not empty" if kind.pattern is None else _TEXTS_IN_WORDS[kind.pattern]) + most


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
