"""The OpenAPI document from the table of operations, and the route that serves it."""

import re
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.gateway.openapi.documented import Documented
from lmx_supervisor.gateway.openapi.operation import Operation
from lmx_supervisor.gateway.openapi.operations import OPERATIONS
from lmx_supervisor.gateway.openapi.raw_fields import RAW_FIELDS
from lmx_supervisor.gateway.responses import json_response
from lmx_supervisor.gateway.version import VERSION

_REFERENCES = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "adminKey": {"type": "apiKey", "in": "header", "name": "X-Admin-Key"},
}
_EVENT = {
    "type": "object",
    "description": "Each server-sent event.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}, "id": {"type": "string"}},
}
_SECURITY: dict[str | None, list[dict[str, list[str]]]] = {
    None: [],
    # The empty one: where no key is configured, none is needed.
    "inference": [{}, {"bearer": []}, {"apiKey": []}, {"adminKey": []}],
    "admin": [{}, {"adminKey": []}],
}


async def openapi(_: Request) -> Response:
    """GET /openapi.json."""
    return json_response(document())


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    documented = Documented(RAW_FIELDS)
    bodies = [documented.of(operation.body) for operation in OPERATIONS]
    answers = [kind for operation in OPERATIONS for kind in (*operation.answers.values(), operation.error)]
    kinds = [kind for kind in (*bodies, *(operation.query for operation in OPERATIONS), *answers) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCES)
    schema_of = {id(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation, body in zip(OPERATIONS, bodies, strict=True):
        shown = _operation(operation, schema_of, body, components)
        paths.setdefault(operation.path, {})[operation.method] = shown
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LMX",
            "version": VERSION,
            "summary": "Local language models behind the OpenAI API, in which no model can take the service down",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def _operation(
    operation: Operation, schema_of: dict[int, dict[str, Any]], body: Any, components: dict[str, Any]
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "tags": [operation.key or "open"],
        "security": _SECURITY[operation.key],
        "parameters": _parameters(operation, schema_of, components),
        "responses": _answers(operation, schema_of),
    }
    if body is not None:
        content: dict[str, Any] = {"schema": schema_of[id(body)]}
        if operation.example is not None:
            content["example"] = operation.example
        shown["requestBody"] = {"required": True, "content": {"application/json": content}}
    return shown


def _operation_id(operation: Operation) -> str:
    return "_".join([operation.method, *re.findall(r"\w+", operation.path)])


def _parameters(operation: Operation, schema_of: dict[int, dict[str, Any]], components: dict[str, Any]) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(operation.path)
    ]
    if operation.query is None:
        return in_path
    name = schema_of[id(operation.query)]["$ref"].rpartition("/")[2]
    properties = components.pop(name)["properties"]
    return in_path + [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _answers(operation: Operation, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, kind in operation.answers.items():
        content = {"application/json": {"schema": schema_of[id(kind)]}}
        if operation.streams and status == 200:
            content["text/event-stream"] = {"schema": _EVENT}
        answers[str(status)] = {"description": "As asked." if status < 400 else "Not now.", "content": content}
    if operation.text is not None:
        schema = _EVENT if operation.text == "text/event-stream" else {"type": "string"}
        answers["200"] = {"description": "As asked.", "content": {operation.text: {"schema": schema}}}
    error = {"application/json": {"schema": schema_of[id(operation.error)]}}
    answers["default"] = {"description": "Refused or failed; `error.message` says what to do.", "content": error}
    return answers
