"""Every failure below /v1/messages has Anthropic's envelope, whoever found it, and the status that its SDK raises from."""

import json
from typing import Any

import httpx
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed
from lmx_supervisor.config.schema import Config, SecurityConfig, ServerConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.dialects.anthropic_errors import error_envelope, error_response, status_of
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from tests.gateway.service import FedService, feeding

BODY: dict[str, Any] = {"model": "org/model", "messages": [{"role": "user", "content": "hi"}]}
ROUTES = ["/v1/messages", "/v1/messages/count_tokens"]


def check(response: httpx.Response, status: int, kind: str) -> str:
    """The response is this kind of failure in Anthropic's envelope, with nothing beside it; returns its message."""
    assert (status, {"type", "error", "request_id"}) == (response.status_code, set(response.json()))
    assert ("error", {"type", "message"}) == (response.json()["type"], set(response.json()["error"]))
    assert kind == response.json()["error"]["type"]
    assert response.json()["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return str(response.json()["error"]["message"])


STATUSES = {
    ErrorCode.INVALID_REQUEST: (400, "invalid_request_error"),
    ErrorCode.NOT_SUPPORTED: (400, "invalid_request_error"),
    ErrorCode.REQUEST_CRASHES_MODEL: (422, "invalid_request_error"),
    ErrorCode.MODEL_NOT_FOUND: (404, "not_found_error"),
    ErrorCode.MODEL_UNSTABLE: (409, "conflict_error"),
    ErrorCode.MODEL_LOADING: (503, "overloaded_error"),
    ErrorCode.SHUTTING_DOWN: (503, "overloaded_error"),
    ErrorCode.WORKER_LOST: (503, "api_error"),
    ErrorCode.OVERLOADED: (529, "overloaded_error"),
    ErrorCode.RATE_LIMIT_EXCEEDED: (429, "rate_limit_error"),
    ErrorCode.INSUFFICIENT_MEMORY: (507, "api_error"),
    ErrorCode.GENERATION_ERROR: (500, "api_error"),
    ErrorCode.INTERNAL_ERROR: (500, "api_error"),
    EdgeCode.INVALID_API_KEY: (401, "authentication_error"),
    EdgeCode.FOREIGN_ORIGIN: (403, "permission_error"),
    EdgeCode.NOT_FOUND: (404, "not_found_error"),
    EdgeCode.METHOD_NOT_ALLOWED: (405, "invalid_request_error"),
    EdgeCode.BODY_TIMEOUT: (408, "timeout_error"),
    EdgeCode.BODY_TOO_LARGE: (413, "request_too_large"),
    EdgeCode.HEADERS_TOO_LARGE: (431, "invalid_request_error"),
}


@pytest.mark.parametrize("code", STATUSES)
def test_statuses_and_types(code: ErrorCode | EdgeCode) -> None:
    """What agents branch on: the status, from which the SDK makes its exception, and the type."""
    problem = Problem(code, "why")

    assert STATUSES[code] == (status_of(problem), error_envelope(problem, "req-1")["error"]["type"])


@pytest.mark.parametrize("code", [*ErrorCode])
@pytest.mark.parametrize("route", ROUTES)
async def test_what_the_service_refuses(route: str, code: ErrorCode, client: httpx.AsyncClient, service: FedService) -> None:
    """Each way the service can fail a request before its first word keeps its words and its `Retry-After`."""
    service.on_submit = feeding([Failed(request_id="", code=code, message="why", retry_after_seconds=7)])

    response = await client.post(route, json={**BODY, "stream": True})

    problem = Problem(code, "why")
    message = check(response, status_of(problem), error_envelope(problem, "")["error"]["type"])
    assert message.endswith("why")
    assert "7" == response.headers["retry-after"]


async def test_a_prompt_that_is_too_long_says_so_in_the_vendors_words(client: httpx.AsyncClient, service: FedService) -> None:
    """Agents compact the conversation when they read `prompt is too long`."""
    text = "This model's context holds 10 tokens."
    service.on_submit = feeding([Failed(request_id="", code=ErrorCode.CONTEXT_LENGTH_EXCEEDED, message=text)])

    message = check(await client.post("/v1/messages", json=BODY), 400, "invalid_request_error")

    assert f"prompt is too long: {text}" == message


@pytest.mark.parametrize("route", ROUTES)
async def test_what_the_edge_refuses(route: str, client: httpx.AsyncClient, service: FedService) -> None:
    """A wrong method, an unknown route below it, a body that is no JSON, and one that is too large."""
    service.config = Config(server=ServerConfig(body_bytes_max=1024))

    check(await client.get(route), 405, "invalid_request_error")
    check(await client.post(f"{route}/batches", json=BODY), 404, "not_found_error")
    check(await client.post(route, content=b"{"), 400, "invalid_request_error")
    check(await client.post(route, content=b"x" * 2000), 413, "request_too_large")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
async def test_a_missing_or_wrong_key(headers: dict[str, str], client: httpx.AsyncClient, service: FedService) -> None:
    """401 in the vendor's envelope and the runbook's words."""
    service.config = Config(security=SecurityConfig(inference_api_key="right"))

    message = check(await client.post("/v1/messages", json=BODY, headers=headers), 401, "authentication_error")

    assert "Invalid or missing API key" == message


@pytest.mark.parametrize("headers", [{"x-api-key": "right"}, {"authorization": "Bearer right"}])
async def test_the_right_key(headers: dict[str, str], client: httpx.AsyncClient, service: FedService) -> None:
    """Both headers that Anthropic's clients use open the route; their version and beta headers are accepted."""
    service.config = Config(security=SecurityConfig(inference_api_key="right"))
    vendor = {"anthropic-version": "2023-06-01", "anthropic-beta": "prompt-caching-2024-07-31"}

    response = await client.post("/v1/messages?beta=true", json=BODY, headers={**headers, **vendor})

    assert 200 == response.status_code


async def test_a_bug_is_a_500_without_internals(client: httpx.AsyncClient, service: FedService) -> None:
    """What nobody foresaw has the envelope too, and none of its words."""

    def burst(_: object) -> None:
        raise RuntimeError("the secret of the house")

    service.on_submit = burst

    message = check(await client.post("/v1/messages", json=BODY), 500, "api_error")

    assert "secret" not in message


async def test_other_routes_keep_their_envelope(client: httpx.AsyncClient) -> None:
    """The envelope is chosen by the path: a neighbour of the messages has the general one, and no `request-id`."""
    response = await client.post("/v1/messages_of_others", json=BODY)

    assert {"error"} == set(response.json())
    assert "request-id" not in response.headers


async def test_a_foreign_page_is_refused_in_the_envelope_of_the_path(service: FedService) -> None:
    """What stands in front of the routes answers in their dialect too."""
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        response = await client.post("/v1/messages", json=BODY, headers={"origin": "http://evil.example"})

    check(response, 403, "permission_error")


def test_the_envelope_is_json_whatever_the_message_holds() -> None:
    """A quoted file name with broken bytes does not turn a clear answer into a 500."""
    problem = Problem(ErrorCode.MODEL_NOT_FOUND, "no file \udcff")

    assert "no file \udcff" == json.loads(bytes(error_response(problem, "req-1").body))["error"]["message"]
