"""The OpenAPI document says what the routes are, no more and no less."""

from collections.abc import Iterator

import httpx
import msgspec
import pytest
from starlette.routing import BaseRoute, Mount, Route

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.openapi.document import document
from lmx_supervisor.gateway.openapi.operations import OPERATIONS
from tests.gateway.service import FedService, feeding


def routed(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every HTTP route, with path parameters as the document writes them."""
    for route in routes:
        if isinstance(route, Mount):
            yield from routed(list(route.routes), prefix + route.path)
        elif isinstance(route, Route):
            for method in route.methods or ():
                if method != "HEAD":
                    yield method.lower(), prefix + route.path.replace(":path}", "}")


async def test_every_route_is_in_the_document_and_nothing_else(service: FedService) -> None:
    """A route without an operation, or an operation without a route, is found here."""
    app = create_app(service)
    assert sorted(routed(app.routes)) == sorted((operation.method, operation.path) for operation in OPERATIONS)


async def test_the_document_is_served_to_everyone(service: FedService, client: httpx.AsyncClient) -> None:
    """It needs no key, and is what the table of operations makes."""
    response = await client.get("/openapi.json")

    assert 200 == response.status_code
    assert msgspec.json.decode(msgspec.json.encode(document())) == response.json()


def test_what_is_decoded_in_a_second_step_is_described() -> None:
    """Fields that are kept raw show what they hold, not just anything."""
    schemas = document()["components"]["schemas"]
    tools = schemas["ChatBody"]["properties"]["tools"]["anyOf"]

    assert {"$ref": "#/components/schemas/ToolIn"} in [kind.get("items") for kind in tools]
    assert ["string", "array", "array", "array"] == [
        kind["type"] for kind in schemas["CompletionBody"]["properties"]["prompt"]["anyOf"]
    ]


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.body is not None], ids=lambda each: each.path)
async def test_every_body_has_an_example_that_is_understood(
    service: FedService, client: httpx.AsyncClient, operation: object
) -> None:
    """What the document shows as an example is a valid body: it gets as far as the model, which is not there."""
    service.on_submit = feeding([Failed(request_id="", code=ErrorCode.MODEL_NOT_FOUND, message="It is not loaded.")])
    (each,) = [candidate for candidate in OPERATIONS if candidate is operation]
    response = await client.post(each.path, json=each.example)

    assert each.example is not None
    assert response.status_code in (200, 404), response.text
