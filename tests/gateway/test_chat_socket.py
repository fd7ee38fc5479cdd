"""WS /v1/chat/stream: several chats on one socket, each ended once; a bad frame costs only itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed, Finished, Prefill, Reasoning, Text, ToolCallPart, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.config.schema import Config, SecurityConfig, ServerConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.service import MODEL, FedAnswer, FedService, feeding, silent

CHAT: dict[str, Any] = {"type": "chat.request", "model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


class Socket:
    """A WebSocket against an application, without a network."""

    def __init__(
        self,
        service: FedService,
        headers: dict[str, str] | None = None,
        *,
        may_deny: bool = False,
        app: Starlette | None = None,
    ) -> None:
        """`may_deny`: the server can send a response in place of the handshake's."""
        self.stopping = asyncio.Event()
        self._inbound: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._outbound: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbound.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": "/v1/chat/stream",
            "raw_path": b"/v1/chat/stream",
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {"stopping": self.stopping},
            "extensions": {"websocket.http.response": {}} if may_deny else {},
        }
        self.task = asyncio.create_task((app or create_app(service))(scope, self._inbound.get, self._take))

        self.takes = asyncio.Event()
        self.takes.set()

    def say(self, frame: dict[str, Any] | str | bytes) -> None:
        given = json.dumps(frame) if isinstance(frame, dict) else frame
        message = {"text": given} if isinstance(given, str) else {"bytes": given}
        self._inbound.put_nowait({"type": "websocket.receive", **message})

    async def _take(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        self._outbound.put_nowait(message)

    def hang_up(self) -> None:
        self._inbound.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def message(self) -> dict[str, Any]:
        """What the application sends next."""
        async with asyncio.timeout(5):
            return await self._outbound.get()

    async def frame(self) -> dict[str, Any]:
        """The next frame, which must be one."""
        message = await self.message()
        assert message["type"] == "websocket.send", message
        frame: dict[str, Any] = json.loads(message["text"])
        return frame

    async def until_end(self, request_id: str) -> list[dict[str, Any]]:
        """The frames of one chat, up to its last; others must not come."""
        frames = []
        while not frames or frames[-1]["type"] not in ("chat.done", "chat.error"):
            frames.append(await self.frame())
            assert request_id == frames[-1]["request_id"]
        return frames

    async def close(self) -> None:
        self.hang_up()
        async with asyncio.timeout(5):
            await self.task


Open = Callable[..., Awaitable[Socket]]


@pytest.fixture
async def open_socket(service: FedService) -> AsyncIterator[Open]:
    """Opens sockets of the service and closes them afterwards."""
    sockets: list[Socket] = []

    async def accepted(**options: Any) -> Socket:
        sockets.append(Socket(service, **options))
        assert {"type": "websocket.accept"} == await sockets[-1].message()
        return sockets[-1]

    yield accepted
    for socket in sockets:
        await socket.close()


async def test_a_chat_is_streamed_and_ends_with_done(open_socket: Open) -> None:
    """Tokens as they come, then the reason and the usage, all under the client's own id."""
    socket = await open_socket()
    socket.say({**CHAT, "request_id": "mine"})
    *tokens, done = await socket.until_end("mine")

    assert [("chat.token", "Hel"), ("chat.token", "lo")] == [(frame["type"], frame["content"]) for frame in tokens]
    assert "stop" == done["finish_reason"]
    assert USAGE == {name: done["usage"][name] for name in USAGE}
    assert "content" not in done


async def test_a_chat_without_stream_tells_its_text_at_the_end(open_socket: Open) -> None:
    """One frame holds it all; the id is the server's when the client names none."""
    socket = await open_socket()
    socket.say({**CHAT, "stream": False})
    done = await socket.frame()

    assert ("chat.done", "Hello") == (done["type"], done["content"])
    assert done["request_id"].startswith("chatcmpl-")


async def test_reasoning_and_whole_tool_calls_are_told(service: FedService, open_socket: Open) -> None:
    """Thoughts are no content; a call comes in one frame, however its arguments were cut."""
    service.on_submit = feeding(
        [
            Reasoning(request_id="", text="hm"),
            ToolCallPart(request_id="", index=0, call_id="c1", name="f", arguments='{"a"'),
            ToolCallPart(request_id="", index=0, arguments=":1}"),
            ToolCallPart(request_id="", index=1, call_id="c2", name="g", arguments="{}"),
            Finished(request_id="", reason=FinishReason.TOOL_CALLS, usage=Usage()),
        ]
    )
    socket = await open_socket()
    socket.say({**CHAT, "request_id": "r"})
    thought, first, second, done = await socket.until_end("r")

    assert ("", "hm") == (thought["content"], thought["reasoning_content"])
    assert {"index": 0, "id": "c1", "name": "f", "arguments": '{"a":1}'} == first["tool_call"]
    assert {"index": 1, "id": "c2", "name": "g", "arguments": "{}"} == second["tool_call"]
    assert "tool_calls" == done["finish_reason"]


async def test_chats_run_side_by_side(service: FedService, open_socket: Open) -> None:
    """A second chat is answered while the first one still computes, and each frame says whose it is."""
    service.on_submit = silent
    socket = await open_socket()
    for name in ("slow", "quick"):
        service.submitted.clear()
        socket.say({**CHAT, "request_id": name})
        await asyncio.wait_for(service.submitted.wait(), 5)
    slow, quick = service.answers
    quick.feed_text("b")
    quick.finish()
    assert ["chat.token", "chat.done"] == [frame["type"] for frame in await socket.until_end("quick")]
    slow.finish()

    assert ["chat.done"] == [frame["type"] for frame in await socket.until_end("slow")]


@pytest.mark.parametrize(
    ("frame", "request_id", "code", "param"),
    [
        ("{", None, "invalid_request_error", None),
        ("", None, "invalid_request_error", None),
        ("[]", None, "invalid_request_error", None),
        (b"\xff", None, "invalid_request_error", None),
        ("[" * 100_000, None, "invalid_request_error", None),
        ({"type": "chat.unknown"}, None, "invalid_request_error", "type"),
        ({"type": "chat.cancel"}, None, "invalid_request_error", "request_id"),
        ({**CHAT, "request_id": "r", "messages": []}, "r", "invalid_request_error", "messages"),
        ({**CHAT, "request_id": "r", "temperature": 9}, "r", "invalid_request_error", "temperature"),
        ({**CHAT, "request_id": "r", "n": 2}, "r", "not_supported", "n"),
        ({**CHAT, "request_id": "two words"}, "two words", "invalid_value", "request_id"),
    ],
)
async def test_a_bad_frame_costs_only_itself(
    open_socket: Open, frame: Any, request_id: str | None, code: str, param: str | None
) -> None:
    """It is answered with `chat.error`, and the next chat on the socket is served."""
    socket = await open_socket()
    socket.say(frame)
    error = await socket.frame()
    socket.say({**CHAT, "request_id": "next"})

    assert ("chat.error", request_id, code, param) == tuple(error[key] for key in ("type", "request_id", "code", "param"))
    assert "chat.done" == (await socket.until_end("next"))[-1]["type"]


async def test_a_failed_chat_says_why_and_nothing_like_success(service: FedService, open_socket: Open) -> None:
    """A worker lost in mid-answer ends the chat with its code; the socket stays."""
    service.on_submit = feeding(
        [Text(request_id="", text="Hel"), Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")]
    )
    socket = await open_socket()
    socket.say({**CHAT, "request_id": "r"})
    token, error = await socket.until_end("r")

    assert ("Hel", "worker_lost", "The worker died.") == (token["content"], error["code"], error["error"])


async def test_a_chat_can_be_cancelled(service: FedService, open_socket: Open) -> None:
    """Its generation is cancelled at once; cancelling it again, or one that never was, is nothing."""
    service.on_submit = lambda answer: answer.feed_text("Hel")
    socket = await open_socket()
    socket.say({**CHAT, "request_id": "r"})
    await socket.frame()
    socket.say({"type": "chat.cancel", "request_id": "never was"})
    socket.say({"type": "chat.cancel", "request_id": "r"})
    (done,) = await socket.until_end("r")
    socket.say({"type": "chat.cancel", "request_id": "r"})
    await asyncio.wait_for(service.answers[0].cancelled.wait(), 5)

    assert "cancelled" == done["finish_reason"]
    service.on_submit = lambda answer: answer.finish()
    socket.say({**CHAT, "request_id": "r"})
    assert ["chat.done"] == [frame["type"] for frame in await socket.until_end("r")]


async def test_an_id_is_used_once_at_a_time(service: FedService, open_socket: Open) -> None:
    """A second chat of an id that is open is refused; the first one goes on."""
    service.on_submit = silent
    socket = await open_socket()
    socket.say({**CHAT, "request_id": "r"})
    await asyncio.wait_for(service.submitted.wait(), 5)
    socket.say({**CHAT, "request_id": "r"})
    error = await socket.frame()
    service.answers[0].finish()

    assert ("chat.error", "request_id") == (error["type"], error["param"])
    assert "chat.done" == (await socket.frame())["type"]
    assert 1 == len(service.answers)


async def test_the_chats_of_a_socket_are_bounded(
    service: FedService, open_socket: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the limit are told so, and room comes back."""
    monkeypatch.setattr(limits, "SOCKET_CHATS_MAX", 1)
    service.on_submit = silent
    socket = await open_socket()
    socket.say({**CHAT, "request_id": "first"})
    await asyncio.wait_for(service.submitted.wait(), 5)
    socket.say({**CHAT, "request_id": "second"})

    assert "rate_limit_exceeded" == (await socket.frame())["code"]
    service.answers[0].finish()
    await socket.frame()
    service.on_submit = lambda answer: answer.finish()
    socket.say({**CHAT, "request_id": "third"})
    assert "chat.done" == (await socket.frame())["type"]


async def test_a_client_that_leaves_takes_its_chats_along(service: FedService) -> None:
    """Every generation of the socket is cancelled."""
    service.on_submit = silent
    socket = Socket(service)
    for name in ("a", "b"):
        service.submitted.clear()
        socket.say({**CHAT, "request_id": name})
        await asyncio.wait_for(service.submitted.wait(), 5)
    await socket.close()

    for answer in service.answers:
        await asyncio.wait_for(answer.cancelled.wait(), 5)


async def test_a_client_that_takes_nothing_loses_its_socket(service: FedService) -> None:
    """Its chats are cancelled and its place is free."""
    service.config = Config(server=ServerConfig(slow_client_seconds=0.02))
    service.on_submit = lambda answer: answer.feed_text("Hel")
    socket = Socket(service)
    await socket.message()
    socket.takes.clear()
    socket.say(CHAT)
    async with asyncio.timeout(5):
        await socket.task

    assert service.answers[0].cancelled.is_set()


def prefilling(answer: FedAnswer) -> None:
    """Half of the prompt is computed, and then nothing for long."""
    answer.feed(Prefill(request_id=answer.request_id, done_tokens=50, prompt_tokens=100))


async def test_a_long_prompt_shows_signs_of_life(service: FedService) -> None:
    """While nothing flows, `chat.progress` says how far the prompt is, often enough for clients with an idle limit."""
    service.config = Config(server=ServerConfig(stream_keep_alive_seconds=0.02))
    service.on_submit = prefilling
    socket = Socket(service)
    await socket.message()
    socket.say({**CHAT, "request_id": "r"})
    frames = [await socket.frame() for _ in range(2)]
    await socket.close()

    expected = {"type": "chat.progress", "request_id": "r", "phase": "prefill", "prompt_tokens": 100, "done_tokens": 50}
    assert [expected, expected] == frames


async def test_a_silent_socket_is_closed(service: FedService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chats and without frames a socket does not keep its place for ever."""
    monkeypatch.setattr(limits, "SOCKET_IDLE_SECONDS", 0.01)
    socket = Socket(service)
    await socket.message()

    assert {"type": "websocket.close", "code": 1001} == await socket.message()
    await socket.close()


async def test_a_stop_of_the_service_closes_idle_sockets_and_lets_chats_end(service: FedService) -> None:
    """An open chat may finish within the drain; then, and on idle sockets at once, the client is told to come back later."""
    service.on_submit = silent
    socket = Socket(service)
    await socket.message()
    socket.say({**CHAT, "request_id": "r"})
    await asyncio.wait_for(service.submitted.wait(), 5)
    socket.stopping.set()
    service.answers[0].finish()

    assert "chat.done" == (await socket.frame())["type"]
    assert {"type": "websocket.close", "code": 1013} == await socket.message()
    await socket.close()


@pytest.mark.parametrize(("headers", "opens"), [({}, False), ({"authorization": "Bearer secret"}, True)])
async def test_a_socket_needs_the_inference_key(service: FedService, headers: dict[str, str], opens: bool) -> None:
    """The same keys as for HTTP, checked in the handshake."""
    service.config = Config(security=SecurityConfig(inference_api_key="secret"))
    socket = Socket(service, headers)

    assert ("websocket.accept" if opens else "websocket.close") == (await socket.message())["type"]
    await socket.close()


async def test_a_socket_is_refused_while_they_are_switched_off() -> None:
    """The handshake is turned down, plainly."""
    socket = Socket(FedService(Config(server=ServerConfig(websocket_enabled=False))))

    assert "websocket.close" == (await socket.message())["type"]
    await socket.task
