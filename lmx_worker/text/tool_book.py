"""The tools of one request, as the parsers need them: which names there are and which types their arguments have."""

import json
from collections.abc import Sequence
from typing import Any

from lmx_protocol.messages import Tool
from lmx_worker.text.json_reading import parsed
from lmx_worker.text.source import MalformedError

ANY_TYPE = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_TYPE_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_REFERENCES_MAX = 16
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
"""How models write the constants of JSON, in lower case."""


class ToolBook:
    """Looks up tools by name."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._schemas: dict[str, dict[str, Any]] = {tool.name: schema_of(tool) for tool in tools}

    def __contains__(self, name: str) -> bool:
        return name in self._schemas

    def types_of(self, tool: str, argument: str) -> frozenset[str]:
        """The JSON types that the tool's schema allows for an argument; that of an unknown argument is text."""
        schema = self._schemas.get(tool, {})
        properties = schema.get("properties")
        if not isinstance(properties, dict) or argument not in properties:
            return frozenset(("string",))
        return _types(properties[argument], schema, _REFERENCES_MAX)


def schema_of(tool: Tool) -> dict[str, Any]:
    """The tool's schema; that of an object without any properties where it has none."""
    schema = json.loads(tool.parameters) if tool.parameters else {}
    return schema if isinstance(schema, dict) and schema else {"type": "object", "properties": {}}


def json_of_text(text: str, types: frozenset[str]) -> str:
    """The JSON text of an argument that the model wrote as plain text, as one of these types where it can be one."""
    word = text.strip()
    if word.lower() in _WORDS:
        word = _WORDS[word.lower()]
    try:
        value = parsed(word)
    except MalformedError:
        return json.dumps(text, ensure_ascii=False)
    kind = _TYPE_NAMES[type(value)]
    if kind in types or (kind == "integer" and "number" in types):
        return word
    if kind == "number" and "integer" in types and value.is_integer():
        return str(int(value))
    return json.dumps(text, ensure_ascii=False)


def _types(schema: Any, root: dict[str, Any], references_left: int) -> frozenset[str]:
    if not isinstance(schema, dict):
        return ANY_TYPE
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_resolved(reference, root), root, references_left - 1) if references_left else ANY_TYPE
    if (named := schema.get("type")) is not None:
        return frozenset([named] if isinstance(named, str) else map(str, named))
    if isinstance(values := schema.get("enum"), list):
        return frozenset(_TYPE_NAMES[type(value)] for value in values)
    if "const" in schema:
        return frozenset((_TYPE_NAMES[type(schema["const"])],))
    for way in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(way), list) and references_left:
            found = [_types(part, root, references_left - 1) for part in parts]
            return frozenset.intersection(*found) if way == "allOf" else frozenset.union(*found)
    return ANY_TYPE


def _resolved(reference: str, root: dict[str, Any]) -> Any:
    place: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        place = place.get(step) if isinstance(place, dict) else None
    return place
