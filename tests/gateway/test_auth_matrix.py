"""The contract's table of who may call what: every operation there is, with every kind of key, in every kind of configuration.

The rows are made from the table of operations, so a new route is held to it without a line here.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from lmx_supervisor.config.schema import Config, NamedKey, SecurityConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.openapi.operations import OPERATIONS, Operation
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedService
from tests.gateway.test_chat_socket import Socket

ADMIN, INFERENCE, NAMED = "admin-key", "inference-key", "named-key"
EVENTS = "/admin/events"
UNAUTHENTICATED = (401, "Invalid or missing API key", "invalid_api_key")
FORBIDDEN = (403, "Invalid or missing admin key", "invalid_admin_key")

CONFIGURATIONS = {
    "lan, open": SecurityConfig(),
    "lan, admin key": SecurityConfig(admin_key=ADMIN),
    "lan, inference key": SecurityConfig(inference_api_key=INFERENCE),
    "lan, both keys": SecurityConfig(admin_key=ADMIN, inference_api_key=INFERENCE),
    "cloud": SecurityConfig(profile="cloud", admin_key=ADMIN, inference_keys={"alice": NamedKey(key=NAMED)}),
}


@dataclass(frozen=True)
class Offer:
    """What a client sends, and which halves that opens where keys are needed."""

    headers: dict[str, str]
    opens: frozenset[str] = frozenset()
    """Of the names of keys: those that this offers in a place where they count."""
    query: str = ""


WRONG = {"Authorization": "Bearer wrong", "X-Api-Key": "wrong", "X-Admin-Key": "wrong"}
OFFERS = {
    "nothing": Offer({}),
    "a wrong key": Offer(WRONG, query="admin_key=wrong"),
    "an empty key": Offer({"Authorization": "Bearer ", "X-Api-Key": "", "X-Admin-Key": ""}, query="admin_key="),
    "inference key as bearer": Offer({"Authorization": f"Bearer {INFERENCE}"}, frozenset({INFERENCE})),
    "inference key": Offer({"X-Api-Key": INFERENCE}, frozenset({INFERENCE})),
    "inference key in the admin's header": Offer({"X-Admin-Key": INFERENCE}),
    "inference key as basic": Offer({"Authorization": f"Basic {INFERENCE}"}),
    "named key": Offer({"Authorization": f"Bearer {NAMED}"}, frozenset({NAMED})),
    "admin key": Offer({"X-Admin-Key": ADMIN}, frozenset({ADMIN, "inference"})),
    "admin key as bearer": Offer({"Authorization": f"Bearer {ADMIN}"}, frozenset({"inference"})),
    "admin key as API key": Offer({"X-Api-Key": ADMIN}, frozenset({"inference"})),
    "admin key in the query": Offer({}, frozenset({EVENTS}), query=f"admin_key={ADMIN}"),
    "admin key in the predecessor's query": Offer({}, frozenset({EVENTS}), query=f"x_admin_key={ADMIN}"),
    "inference key in the query": Offer({}, query=f"api_key={INFERENCE}&key={INFERENCE}&admin_key={INFERENCE}"),
}


def expected(key: str | None, path: str, offer: Offer, security: SecurityConfig) -> tuple[int, str, str] | None:
    """How the contract refuses this; None where it lets pass."""
    if key == "admin":
        opened = ADMIN in offer.opens or (path == EVENTS and EVENTS in offer.opens)
        return None if security.admin_key is None or opened else FORBIDDEN
    if key == "inference":
        configured = {security.inference_api_key, *(each.key for each in security.inference_keys.values())} - {None}
        opened = bool(offer.opens & configured) or (security.admin_key is not None and "inference" in offer.opens)
        return None if not configured or opened else UNAUTHENTICATED
    return None


async def refused(app: Any, operation: Operation, offer: Offer) -> tuple[int, str, str] | None:
    """How the application refuses it for want of a key; None when it gets further."""
    path = operation.path.replace("{", "").replace("}", "")
    # Or the stream of events would have no end.
    query = "&".join(filter(None, (offer.query, "follow=false" if path == EVENTS else "")))
    body = b"{}" if operation.method == "post" else b""
    request = Exchange(app, operation.method.upper(), path, body=body, headers=offer.headers, query=query.encode())
    status = (await request.message())["status"]
    answer = await request.rest()
    await request.done()
    return _refusal(status, answer, anthropic=path.startswith("/v1/messages"))


def _refusal(status: int, answer: bytes, *, anthropic: bool) -> tuple[int, str, str] | None:
    if status not in (401, 403):
        return None
    content = json.loads(answer)
    error = content["error"]
    if anthropic:
        assert (content["type"], error["type"], set(error)) == ("error", "authentication_error", {"type", "message"})
        return status, error["message"], "invalid_api_key"
    assert set(error) == {"message", "type", "param", "code"}
    return status, error["message"], error["code"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_every_operation_with_every_key(name: str) -> None:
    """Status, words, code and envelope are the contract's, wherever the key stands and whatever is behind it."""
    security = CONFIGURATIONS[name]
    app = create_app(FedService(Config(security=security)))
    wrong = [
        (operation.method, operation.path, offered, wanted, got)
        for operation in OPERATIONS
        for offered, offer in OFFERS.items()
        if (got := await refused(app, operation, offer)) != (wanted := expected(operation.key, operation.path, offer, security))
    ]

    assert wrong == []


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_unknown_routes_tell_nothing_without_a_key(name: str) -> None:
    """What is not there is refused like what is; with the key it is a 404."""
    security = CONFIGURATIONS[name]
    app = create_app(FedService(Config(security=security)))
    unknown = [
        Operation(method="get", path="/v1/nothing", summary="", key="inference"),
        Operation(method="post", path="/admin/nothing", summary="", key="admin"),
        Operation(method="get", path="/nothing", summary="", key=None),
    ]
    for operation in unknown:
        for offer in OFFERS.values():
            assert await refused(app, operation, offer) == expected(operation.key, operation.path, offer, security)


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_the_socket_with_every_key(name: str) -> None:
    """Its handshake is refused with the same status, words and envelope as any other request, and a request id."""
    security = CONFIGURATIONS[name]
    service = FedService(Config(security=security))
    for offer in OFFERS.values():
        headers = {name.lower(): value for name, value in offer.headers.items()}
        socket = Socket(service, headers, may_deny=True)
        opening = await socket.message()
        wanted = expected("inference", "/v1/chat/stream", offer, security)
        if wanted is None:
            assert opening == {"type": "websocket.accept"}
        else:
            assert opening["type"] == "websocket.http.response.start"
            assert any(name == b"x-request-id" for name, _ in opening["headers"])
            assert _refusal(opening["status"], (await socket.message())["body"], anthropic=False) == wanted
        await socket.close()
