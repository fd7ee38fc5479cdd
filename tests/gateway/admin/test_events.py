"""GET /admin/events: framing, resuming, keys, slow and leaving readers, and its end."""

import json
from typing import Any

import httpx
import msgspec
import pytest

from lmx_protocol import limits
from lmx_supervisor.config.schema import Config, SecurityConfig, ServerConfig
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.observe.event_names import SERVICE_STOPPED
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedService

EVENTS = "/admin/events"


class Stream:
    """A reader of the events, parsed as they come."""

    def __init__(self, service: FedService, headers: dict[str, str] | None = None) -> None:
        self.exchange = Exchange(create_app(service), "GET", EVENTS, headers=headers)
        self._text = ""

    async def opened(self) -> "Stream":
        """The response has begun, and its first bytes came before anything happened."""
        start = await self.exchange.message()
        assert start["status"] == 200
        assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
        assert (await self.exchange.message())["body"].startswith(b"retry: ")
        return self

    async def event(self) -> dict[str, str]:
        """The next event's fields."""
        while "\n\n" not in self._text:
            self._text += (await self.exchange.message())["body"].decode()
        frame, self._text = self._text.split("\n\n", 1)
        return _parse(frame)

    async def leave(self) -> None:
        """The reader closes its connection."""
        self.exchange.disconnect()
        await self.exchange.done()


def _parse(frame: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in frame.split("\n"))


def _listed(body: str) -> list[dict[str, Any]]:
    """The data of everything but heartbeats in a whole answer."""
    frames = [_parse(frame) for frame in body.split("\n\n") if frame]
    return [json.loads(frame["data"]) for frame in frames if frame.get("event", "heartbeat") != "heartbeat"]


async def test_an_event_is_framed_with_id_type_and_data(service: FedService) -> None:
    """The data is JSON on one ASCII line, says id, type and time itself, and carries the published fields."""
    stream = await Stream(service).opened()
    service.events.take(Tell("model_loaded", {"model_id": "m\u2028\n", "memory_bytes": 1024**3}))
    event = await stream.event()
    data = json.loads(event["data"])
    assert (event["event"], int(event["id"])) == ("model_loaded", data["id"])
    assert event["data"].isascii()
    assert (data["type"], data["model_id"], data["memory_gb"]) == ("model_loaded", "m\u2028\n", 1.0)
    assert data["timestamp"] > 1e9
    await stream.leave()


async def test_a_new_reader_gets_what_happens_from_now_on(service: FedService) -> None:
    """What happened before is not repeated to a reader that does not ask for it."""
    service.events.take(Tell("before", {}))
    stream = await Stream(service).opened()
    service.events.take(Tell("after", {}))
    assert (await stream.event())["event"] == "after"
    await stream.leave()


async def test_a_reader_resumes_after_the_last_event_it_saw(service: FedService) -> None:
    """With `Last-Event-ID` nothing is missing and nothing comes twice."""
    for kind in ("one", "two", "three"):
        service.events.take(Tell(kind, {}))
    subscription = service.events.subscribe(0)
    ids = {item.kind: item.id for item in subscription.read()[1:]}  # type: ignore[union-attr]
    stream = await Stream(service, {"Last-Event-ID": str(ids["one"])}).opened()
    assert [(await stream.event())["event"] for _ in range(2)] == ["two", "three"]
    await stream.leave()


async def test_a_gap_is_told_and_can_be_resumed_from(service: FedService, client: httpx.AsyncClient) -> None:
    """Lost events are an `event: gap` with its two ends; resuming from the gap's own id does not tell it again."""
    for _ in range(limits.EVENTS_KEPT_MAX + 1):
        service.events.take(Tell("x", {}))
    answer = await client.get(EVENTS, params={"last_event_id": 5, "follow": "false"})
    gap, first, *_ = _listed(answer.text)
    assert (gap["type"], gap["from_id"], gap["to_id"]) == ("gap", 5, first["id"])
    gap_frame = next(frame for frame in map(_parse, answer.text.split("\n\n")[1:3]) if frame["event"] == "gap")
    again = await client.get(EVENTS, params={"last_event_id": gap_frame["id"], "follow": "false"})
    assert _listed(again.text)[0] == first


async def test_without_following_the_answer_ends_after_what_is_known(service: FedService, client: httpx.AsyncClient) -> None:
    """`follow=false` is a listing."""
    service.events.take(Tell("one", {}))
    answer = await client.get(EVENTS, params={"last_event_id": 0, "follow": "false"})
    assert [data["type"] for data in _listed(answer.text)] == ["gap", "one"]


@pytest.mark.parametrize("last_id", ["x", "-1", "1.5", "9" * 30, "٣"])
async def test_an_id_that_is_no_number_is_refused(client: httpx.AsyncClient, last_id: str) -> None:
    """A malformed id is the client's mistake, told with the name of the parameter."""
    answer = await client.get(EVENTS, params={"last_event_id": last_id})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "last_event_id")


async def test_follow_is_true_or_false(client: httpx.AsyncClient) -> None:
    """Anything else is refused instead of guessed at."""
    answer = await client.get(EVENTS, params={"follow": "maybe"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "follow")


async def test_one_reader_too_many_is_refused_and_one_that_leaves_makes_room(
    service: FedService, client: httpx.AsyncClient
) -> None:
    """Past the bound the answer is 503 with a time to come back; a closed connection gives its place back."""
    streams = [await Stream(service).opened() for _ in range(limits.EVENT_SUBSCRIBERS_MAX)]
    refused = await client.get(EVENTS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"]
    await streams[0].leave()
    assert (await client.get(EVENTS, params={"follow": "false"})).status_code == 200
    for stream in streams[1:]:
        await stream.leave()


async def test_a_heartbeat_comes_while_nothing_happens(service: FedService) -> None:
    """Every interval there is a sign of life, without an id, so that it does not disturb resuming."""
    server = msgspec.structs.replace(service.config.server, sse_heartbeat_interval_sec=1)
    service.config = msgspec.structs.replace(service.config, server=server)
    stream = await Stream(service).opened()
    beat = await stream.event()
    assert beat["event"] == "heartbeat"
    assert "id" not in beat
    assert set(json.loads(beat["data"])) == {"timestamp"}
    await stream.leave()


async def test_the_stream_ends_with_the_service(service: FedService) -> None:
    """The last event is delivered and then the answer ends by itself, so that no reader holds up a stop."""
    stream = await Stream(service).opened()
    service.events.take(Tell(SERVICE_STOPPED, {}))
    assert (await stream.event())["event"] == SERVICE_STOPPED
    assert await stream.exchange.rest() == b""
    await stream.exchange.done()


async def test_a_reader_that_takes_nothing_loses_its_place() -> None:
    """A client whose socket stays full is dropped after the configured time; its place is free again."""
    service = FedService(Config(server=ServerConfig(slow_client_seconds=0.05)))
    stream = await Stream(service).opened()
    stream.exchange.writable.clear()
    service.events.take(Tell("one", {}))
    assert await stream.exchange.done() == []
    assert service.events.subscribers == 0


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 403),
        ("?admin_key=wrong", {}, 403),
        ("?admin_key=admin", {}, 200),
        ("?x_admin_key=admin", {}, 200),
        ("", {"X-Admin-Key": "admin"}, 200),
    ],
)
async def test_the_admin_key_may_come_in_the_query(query: str, headers: dict[str, str], status: int) -> None:
    """A browser's event source cannot send headers; everybody else may use the header as everywhere."""
    service = FedService(Config(security=SecurityConfig(admin_key="admin")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://lmx") as client:
        answer = await client.get(f"{EVENTS}{query}{'&' if query else '?'}follow=false", headers=headers)
    assert answer.status_code == status


async def test_no_other_route_takes_the_key_from_the_query() -> None:
    """Query strings end up in histories and proxies' logs: only the one route that has no other way accepts them."""
    service = FedService(Config(security=SecurityConfig(admin_key="admin")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://lmx") as client:
        assert (await client.get("/admin/status?admin_key=admin")).status_code == 403


async def test_the_wrong_method_is_told_so(client: httpx.AsyncClient) -> None:
    """The route exists; it does not take a POST."""
    assert (await client.post(EVENTS)).status_code == 405
