"""JSON schemas of every kind that structured output meets, each with room for few tokens only, and a check of what came out."""

import json
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS: dict[str, dict[str, Any]] = {
    "empty object": {"type": "object", "additionalProperties": False},
    "required and optional": {
        "type": "object",
        "properties": {"id": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["id"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"b": {"type": "object", "properties": {"c": {"type": "null"}}, "required": ["c"]}},
                "required": ["b"],
                "additionalProperties": False,
            }
        },
        "required": ["a"],
        "additionalProperties": False,
    },
    "enum of all types": {"enum": ["red", "blau", 'veř"\\', 7, 2.5, None, True, ["x"], {"k": 1}]},
    "const": {"type": "object", "properties": {"v": {"const": {"deep": [1, "two"]}}}, "required": ["v"]}
    | {"additionalProperties": False},
    "bounded array": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"enum": ["a", "b"]}, {"type": "boolean"}], "items": False, "minItems": 2},
    "union": {"anyOf": [{"type": "integer", "minimum": 10, "maximum": 20}, {"enum": ["none"]}, {"type": "null"}]},
    "several types": {"type": ["boolean", "null"]},
    "tagged union": {
        "oneOf": [
            {"type": "object", "properties": {"t": {"const": "a"}, "x": {"type": "boolean"}}, "required": ["t", "x"]},
            {"type": "object", "properties": {"t": {"const": "b"}, "y": {"type": "null"}}, "required": ["t", "y"]},
        ]
    },
    "reference": {
        "$defs": {"point": {"type": "object", "properties": {"x": {"enum": [0, 1]}}, "required": ["x"]}},
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/point"}, "q": {"$ref": "#/$defs/point"}},
        "required": ["p", "q"],
    },
    "recursion": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]},
        ]
    },
    "additional properties of a type": {
        "type": "object",
        "properties": {"n": {"type": "null"}},
        "additionalProperties": {"type": "boolean"},
        "required": ["n"],
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "bounded string": {"type": "string", "minLength": 3, "maxLength": 8},
    "date": {"type": "string", "format": "date"},
    "time stamp": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {"type": "string", "format": "ipv4"},
    "number between": {"type": "number", "minimum": -1.5, "maximum": 2.25},
    "exclusive bounds": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 50},
    "anything": {},
}

SHORT = {"several types", "pattern", "bounded string", "date", "uuid", "address", "exclusive bounds", "multiple"}
"""Those whose longest answer has fewer than 48 characters."""


def check(schema: dict[str, Any], text: str) -> None:
    """Raise unless `text` is JSON that the schema allows, its formats included."""
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(json.loads(text))
