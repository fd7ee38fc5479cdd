"""Early answers to requests whose body nobody read."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from lmx_protocol import limits
from lmx_supervisor.gateway.framing import DiscardUnreadBody
from tests.gateway.asgi import Exchange


async def _refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


async def test_the_answer_goes_out_before_the_body_is_read_away() -> None:
    """The client has its whole answer at once; the response ends when its upload does."""
    request = Exchange(DiscardUnreadBody(_refuse), "POST", "/", headers={"content-length": "9"}, upload=False)
    start, answer = await request.message(), await request.message()

    request.upload(b"123", more=True)
    request.upload(b"456789")
    (end,) = await request.done()

    assert (start["status"], answer["body"], answer["more_body"]) == (401, b"no", True)
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_client_that_never_finishes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment the response ends, whatever is still missing."""
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS", 0.01)
    request = Exchange(DiscardUnreadBody(_refuse), "POST", "/", headers={"content-length": "9"}, upload=False)

    assert (await request.done())[-1]["more_body"] is False


async def test_the_last_send_is_not_blocked_by_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot finish a response before its bounded queue is emptied gets it emptied meanwhile."""
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS", 0.0)
    queue: asyncio.Queue[Message] = asyncio.Queue(1)
    queue.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
    ended = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message["more_body"]:
            await queue.put({"type": "http.disconnect"})
            ended.set()

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    async with asyncio.timeout(5):
        await DiscardUnreadBody(_refuse)(scope, queue.get, send)

    assert ended.is_set()
