"""Keys of `server` that every request looks up: what was refused or let wait is not any more, under the same application."""

import asyncio

import httpx
import pytest

from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedAnswer, FedService, silent

CHAT = b'{"model": "org/model", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 3000)
STREAM = CHAT.replace(b'"messages"', b'"stream": true, "messages"')
PATIENT = ServerConfig(body_seconds=600.0, slow_client_seconds=600.0, stream_keep_alive_seconds=600.0)


def reload(service: FedService, server: ServerConfig) -> None:
    """Put these settings in force."""
    service.config = Config(server=server)


@pytest.mark.live_keys("server.allowed_hosts")
async def test_another_name_of_this_machine() -> None:
    """A name that was somebody else's is ours."""
    service = FedService()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://127.0.0.1") as client:
        statuses = []
        for server in (ServerConfig(), ServerConfig(allowed_hosts=("studio.local",))):
            reload(service, server)
            statuses.append((await client.get("/v1/models", headers={"Host": "studio.local"})).status_code)

    assert statuses == [403, 200]


@pytest.mark.live_keys("server.held_bodies_bytes_max")
async def test_room_for_another_body() -> None:
    """A body for which there was no room beside the one that is held finds some."""
    service = FedService(Config(server=ServerConfig(held_bodies_bytes_max=5000)))
    service.on_submit = silent
    app = create_app(service)
    held = Exchange(app, "POST", "/v1/chat/completions", body=CHAT)
    await asyncio.wait_for(service.submitted.wait(), 5)
    service.on_submit = FedAnswer.finish
    refused = Exchange(app, "POST", "/v1/chat/completions", body=CHAT)
    before = (await refused.message())["status"]
    await refused.done()
    reload(service, ServerConfig(held_bodies_bytes_max=50_000))
    let_in = Exchange(app, "POST", "/v1/chat/completions", body=CHAT)
    after = (await let_in.message())["status"]
    await let_in.done()
    service.answers[0].finish()
    await held.done()

    assert (before, after) == (503, 200)


@pytest.mark.live_keys("server.body_seconds")
async def test_less_patience_with_bodies() -> None:
    """A body that does not come is given up after the new time; one that was begun before keeps its own."""
    service = FedService(Config(server=PATIENT))
    app = create_app(service)
    begun = Exchange(app, "POST", "/v1/chat/completions", upload=False)
    await Exchange(app, "GET", "/healthz").done()
    reload(service, ServerConfig(body_seconds=0.02))
    late = Exchange(app, "POST", "/v1/chat/completions", upload=False)
    status = (await late.message())["status"]
    await late.done()
    still_open = not begun.task.done()
    begun.disconnect()
    await begun.done()

    assert (status, still_open) == (408, True)


@pytest.mark.live_keys("server.slow_client_seconds")
async def test_less_patience_with_clients_that_take_nothing() -> None:
    """The answer of a client that does not read is cancelled after the new time."""
    service = FedService(Config(server=PATIENT))
    service.on_submit = silent
    app = create_app(service)
    reload(service, ServerConfig(slow_client_seconds=0.02))
    slow = Exchange(app, "POST", "/v1/chat/completions", body=STREAM)
    await asyncio.wait_for(service.submitted.wait(), 5)
    (answer,) = service.answers
    answer.feed_text("Hel")
    await slow.message()
    await slow.message()
    slow.writable.clear()
    answer.feed_text("lo")
    await slow.done()

    assert answer.cancelled.is_set()


@pytest.mark.live_keys("server.stream_keep_alive_seconds")
async def test_more_signs_of_life() -> None:
    """A stream in which nothing flows says so after the new time."""
    service = FedService(Config(server=PATIENT))
    service.on_submit = lambda answer: answer.feed_text("Hel")
    app = create_app(service)
    reload(service, ServerConfig(stream_keep_alive_seconds=0.02))
    stream = Exchange(app, "POST", "/v1/chat/completions", body=STREAM)
    await stream.message()
    text, *signs = [(await stream.message())["body"] for _ in range(3)]
    stream.disconnect()
    await stream.done()

    assert b'"content":"Hel"' in text
    assert all(b'"choices"' in sign and b'"content":"Hel"' not in sign for sign in signs)


@pytest.mark.live_keys("server.sse_heartbeat_interval_sec")
async def test_more_heartbeats() -> None:
    """Whoever follows the events gets one after the new time, while nothing happens."""
    service = FedService(Config(server=ServerConfig(sse_heartbeat_interval_sec=600)))
    app = create_app(service)
    reload(service, ServerConfig(sse_heartbeat_interval_sec=1))
    events = Exchange(app, "GET", "/admin/events")
    messages = [await events.message() for _ in range(3)]
    events.disconnect()
    await events.done()

    assert [message.get("body", b"").count(b"event: heartbeat") for message in messages] == [0, 1, 1]
