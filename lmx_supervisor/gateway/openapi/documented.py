"""Types as the document shows them: structs that keep some fields as raw JSON, with what those fields are decoded to later.

msgspec makes schemas from types, but knows nothing of a field that is decoded in a second step (see `body.decode_field`); that
second step's type is named here, beside the struct and field it belongs to.
"""

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Raw

RawFields = Mapping[tuple[type[msgspec.Struct], str], Any]


class Documented:
    """Documented versions of types; each struct is made once."""

    def __init__(self, raw_fields: RawFields) -> None:
        self._raw_fields = raw_fields
        self._made: dict[type[msgspec.Struct], Any] = {}

    def of(self, annotation: Any) -> Any:
        """The type with every struct in it replaced by its documented version."""
        origin = get_origin(annotation)
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            return self._struct(annotation)
        if origin is Annotated:
            inner, *metadata = get_args(annotation)
            return Annotated[(self.of(inner), *metadata)]
        if origin in (Union, types.UnionType):
            return Union[tuple(self.of(argument) for argument in get_args(annotation))]  # noqa: UP007 - made at run time
        if origin in (list, dict, tuple):
            return origin[tuple(argument if argument is Ellipsis else self.of(argument) for argument in get_args(annotation))]
        return annotation

    def _struct(self, struct: type[msgspec.Struct]) -> Any:
        if struct in self._made:
            # A struct within itself: the second time it is any object, or making it would not end.
            return self._made[struct] or dict[str, Any]
        self._made[struct] = None
        hints = get_type_hints(struct, include_extras=True)
        fields = [self._field(struct, field, hints[field.name]) for field in msgspec.structs.fields(struct)]
        self._made[struct] = msgspec.defstruct(
            struct.__name__, fields, kw_only=True, module=struct.__module__, namespace={"__doc__": struct.__doc__}
        )
        return self._made[struct]

    def _field(self, struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo, hint: Any) -> tuple[str, Any, Any]:
        if hint is Raw:
            hint = self._raw_fields.get((struct, field.name), Any)
        if field.required:
            return field.name, self.of(hint), msgspec.NODEFAULT
        is_plain = isinstance(field.default, str | int | float | bool)
        return field.name, self.of(hint), field.default if is_plain else None
