"""POST /v1/requests/{id}/cancel: by the client's own id or the answer's, in every phase."""

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette

from lmx_protocol.messages import Prefill
from lmx_supervisor.config.schema import Config, SecurityConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange, chunks
from tests.gateway.service import MODEL, FedService, silent

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def ask(app: Starlette, request_id: str, **fields: Any) -> Exchange:
    """A chat request in flight that its client calls `request_id`."""
    body = json.dumps({**CHAT, **fields}).encode()
    return Exchange(app, "POST", "/v1/chat/completions", body=body, headers={"X-Request-ID": request_id})


async def cancel(app: Starlette, request_id: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and body of the cancel."""
    request = Exchange(app, "POST", f"/v1/requests/{request_id}/cancel", headers=headers)
    start = await request.message()
    return start["status"], json.loads(await request.rest())


@pytest.mark.parametrize("phase", ["queued", "in its prompt"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_without_text_yet_ends_with_a_status(service: FedService, phase: str, stream: bool) -> None:
    """Waiting for a worker or in its prompt: its client gets 499 `request_cancelled`, its generation is cancelled at once."""
    service.on_submit = silent
    app = create_app(service)
    request = ask(app, "mine/1", stream=stream)
    await service.submitted.wait()
    if phase == "in its prompt":
        service.answers[0].feed(Prefill(request_id="", done_tokens=1, prompt_tokens=9))

    assert (200, {"request_id": "mine/1", "cancelled": True}) == await cancel(app, "mine/1")

    start = await request.message()
    assert 499 == start["status"]
    assert (b"x-request-id", b"mine/1") in start["headers"]
    assert "request_cancelled" == json.loads(await request.rest())["error"]["code"]
    async with asyncio.timeout(5):
        await service.answers[0].ended.wait()
    assert service.answers[0].cancelled.is_set()


async def test_a_stream_ends_with_an_error_event(service: FedService) -> None:
    """By the `id` that its chunks have; the end marker does not follow, so nobody takes the answer for whole."""
    service.on_submit = lambda answer: answer.feed_text("Hel")
    app = create_app(service)
    request = ask(app, "mine", stream=True)
    await request.message()
    answer_id = chunks((await request.message())["body"])[0]["id"]

    status, _ = await cancel(app, answer_id)

    (last,) = chunks(await request.rest())
    assert (200, "request_cancelled") == (status, last["error"]["code"])
    async with asyncio.timeout(5):
        await service.answers[0].ended.wait()


async def test_all_choices_end(service: FedService) -> None:
    """A request with `n` choices is one request."""
    service.on_submit = silent
    app = create_app(service)
    request = ask(app, "mine", n=3)
    await service.submitted.wait()

    await cancel(app, "mine")

    assert 499 == (await request.message())["status"]
    async with asyncio.timeout(5):
        for answer in service.answers:
            await answer.ended.wait()
    assert [True] * 3 == [answer.cancelled.is_set() for answer in service.answers]


async def test_requests_that_share_an_id_all_end(service: FedService) -> None:
    """Clients choose ids: a cancel means every open request of that id, and no other."""
    app = create_app(service)
    all_here = asyncio.Event()
    service.on_submit = lambda _: all_here.set() if len(service.answers) == 3 else None
    twins, other = [ask(app, "twin"), ask(app, "twin")], ask(app, "other")
    await all_here.wait()

    await cancel(app, "twin")

    assert [499, 499] == [(await twin.message())["status"] for twin in twins]
    service.answers[2].finish()
    assert 200 == (await other.message())["status"]


@pytest.mark.parametrize("request_id", ["never-seen", "mine"])
async def test_what_is_not_open_is_not_found(service: FedService, request_id: str) -> None:
    """An id that never was, or whose request has ended: 404 `request_not_found`."""
    app = create_app(service)
    ended = ask(app, "mine")
    assert 200 == (await ended.message())["status"]
    await ended.rest()
    await ended.done()

    status, body = await cancel(app, request_id)

    assert (404, "request_not_found") == (status, body["error"]["code"])


async def test_a_cancel_needs_the_inference_key() -> None:
    """Like everything below /v1."""
    app = create_app(FedService(Config(security=SecurityConfig(inference_api_key="k"))))

    assert 401 == (await cancel(app, "mine"))[0]
    assert 404 == (await cancel(app, "mine", {"Authorization": "Bearer k"}))[0]
