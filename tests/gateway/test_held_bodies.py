"""The bound for all bodies together."""

import httpx

from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.core.service import TurnedAway
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedService, silent

CHAT = b'{"model": "org/model", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 3000)


def service_with_room_for_two() -> FedService:
    """A service whose answers take their time, with room for two such bodies."""
    service = FedService(Config(server=ServerConfig(body_bytes_max=4096, held_bodies_bytes_max=2 * 3100)))
    service.on_submit = silent
    return service


async def test_a_body_that_finds_no_room_is_refused_and_the_others_go_on() -> None:
    """The third of two gets 503 with a `Retry-After`; a request without a body needs no room."""
    service = service_with_room_for_two()
    app = create_app(service)
    held = [Exchange(app, "POST", "/v1/chat/completions", body=CHAT) for _ in range(2)]
    for _ in held:
        await service.submitted.wait()
    while len(service.answers) < 2:
        await Exchange(app, "GET", "/healthz").done()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        refused = await client.post("/v1/chat/completions", content=CHAT)
        probe = await client.get("/healthz")
    for answer in service.answers:
        answer.finish()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["connection"] == "close"
    assert probe.status_code == 200
    assert service.turned_away == [TurnedAway.HELD_BODIES]
    assert [(await exchange.message())["status"] for exchange in held] == [200, 200]


async def test_room_comes_back_however_a_request_ends() -> None:
    """Refused, disconnected or answered: afterwards there is room for as much as before."""
    service = service_with_room_for_two()
    app = create_app(service)
    for _ in range(5):
        gone = Exchange(app, "POST", "/v1/chat/completions", body=CHAT)
        await service.submitted.wait()
        gone.disconnect()
        await gone.done()
        service.submitted.clear()
        await Exchange(app, "POST", "/v1/chat/completions", body=b"[" + b" " * 3000).done()
    service.on_submit = lambda answer: answer.finish()

    last = Exchange(app, "POST", "/v1/chat/completions", body=CHAT)
    assert (await last.message())["status"] == 200
    await last.done()
