"""The official `anthropic` SDK, unmodified but for its base URL, against a running LMX with scripted models."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.support.live import LiveServer

KEY = "the-key"
BODY_BYTES_MAX = 400_000
SCRIPT = """
context_length: 2000
answers:
  - {contains: "is sunny", pieces: ["Take", " a hat."]}
  - contains: "weather"
    reasoning: ["The sky", " knows."]
    pieces: ["Looking", " up."]
    tool_calls: [{name: look, arguments: ['{"at": ', '"sky"}']}, {name: listen}]
  - {contains: "ponder", reasoning: ["Deep", " thought."], pieces: ["42"]}
  - {contains: "France", pieces: ["The", " capital", " is", " Paris", "."]}
  - {contains: "slowly", pieces: ["drip "], tokens: 1900, token_seconds: 0.05}
  - {echo: true}
"""
PARIS = "The capital is Paris."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service with a key, a short line and small bodies."""
    settings = {
        "LMX_SECURITY__INFERENCE_API_KEY": KEY,
        "LMX_MODELS__SLOTS": "1",
        "LMX_MODELS__QUEUE_PER_MODEL": "1",
        "LMX_SERVER__BODY_BYTES_MAX": str(BODY_BYTES_MAX),
        "LMX_SERVER__HELD_BODIES_BYTES_MAX": str(BODY_BYTES_MAX),
    }
    started = LiveServer(tmp_path_factory.mktemp("anthropic"), environment=settings)
    try:
        started.start()
        started.load(started.script("speaker", SCRIPT))
        yield started
        assert started.stop() == 0, started.log()
    finally:
        started.abandon()


@pytest.fixture
def connect(server: LiveServer) -> Iterator[Callable[..., anthropic.Anthropic]]:
    """Makes clients that do not try again."""
    clients: list[anthropic.Anthropic] = []

    def client(**options: Any) -> anthropic.Anthropic:
        clients.append(anthropic.Anthropic(**{"base_url": server.url, "api_key": KEY, "max_retries": 0, **options}))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


@pytest.fixture
def client(connect: Callable[..., anthropic.Anthropic]) -> anthropic.Anthropic:
    """A client with the right key."""
    return connect()


@pytest.fixture
async def async_client(server: LiveServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The asynchronous client, with the key as a bearer token."""
    async with anthropic.AsyncAnthropic(base_url=server.url, auth_token=KEY, api_key=None, max_retries=0) as made:
        yield made


def asks(words: str) -> list[MessageParam]:
    """A conversation of one question."""
    return [{"role": "user", "content": words}]


def test_a_message(client: anthropic.Anthropic) -> None:
    """Text, stop reason, usage and the request's id arrive in the SDK's own types."""
    message = client.messages.create(model="speaker", max_tokens=100, messages=asks("France?"))

    assert [block.model_dump(exclude_none=True) for block in message.content] == [{"type": "text", "text": PARIS}]
    assert (message.stop_reason, message.stop_sequence, message.model) == ("end_turn", None, "speaker")
    assert (message.usage.output_tokens, message._request_id) == (5, message._request_id)
    assert message._request_id is not None and message._request_id.startswith("req-")


def test_an_answer_that_is_cut(client: anthropic.Anthropic) -> None:
    """`max_tokens` is a stop reason, not an end of the turn."""
    message = client.messages.create(model="speaker", max_tokens=3, messages=asks("France?"))

    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


def test_the_stream_helper(client: anthropic.Anthropic) -> None:
    """The text as it comes, and the final message, which equals the one that is not streamed."""
    asked = {"model": "speaker", "max_tokens": 100, "messages": asks("France?")}
    with client.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()

    whole = client.messages.create(**asked)
    assert "".join(pieces) == PARIS and len(pieces) >= 1
    drop = {"id"}
    assert streamed.model_dump(exclude=drop, exclude_none=True) == whole.model_dump(exclude=drop, exclude_none=True)


def test_raw_events_come_in_order(client: anthropic.Anthropic) -> None:
    """`stream=True` without the helper: every event is known to the SDK."""
    events = list(client.messages.create(model="speaker", max_tokens=100, messages=asks("France?"), stream=True))

    assert [event.type for event in events if event.type != "content_block_delta"] == [
        *("message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop")
    ]
    assert events[0].type == "message_start" and events[0].message.usage.input_tokens == 2


async def test_the_asynchronous_client(async_client: anthropic.AsyncAnthropic) -> None:
    """The same over asyncio, with the other header for the key."""
    async with async_client.messages.stream(model="speaker", max_tokens=100, messages=asks("France?")) as stream:
        assert await stream.get_final_text() == PARIS


LOOK: ToolParam = {
    "name": "look",
    "description": "Looks somewhere.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
LISTEN: ToolParam = {"name": "listen", "input_schema": {"type": "object"}}


@pytest.mark.parametrize("streams", [True, False])
def test_a_round_of_tool_use(streams: bool, client: anthropic.Anthropic) -> None:
    """The model calls two tools, the client answers both in its next turn, and the model goes on from the results."""
    asked: dict[str, Any] = {"model": "speaker", "max_tokens": 100, "tools": [LOOK, LISTEN]}
    messages = asks("How is the weather?")

    def send() -> anthropic.types.Message:
        if not streams:
            return client.messages.create(messages=messages, **asked)
        with client.messages.stream(messages=messages, **asked) as stream:
            return stream.get_final_message()

    called = send()
    thought, said, look, listen = called.content
    assert (thought.type, said.type, called.stop_reason) == ("thinking", "text", "tool_use")
    assert look.type == listen.type == "tool_use"
    assert [("look", {"at": "sky"}), ("listen", {})] == [(call.name, call.input) for call in (look, listen)]
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": look.id, "content": [{"type": "text", "text": "It is sunny."}]},
        {"type": "tool_result", "tool_use_id": listen.id, "content": "deaf", "is_error": True},
    ]
    messages += [called.to_param(), {"role": "user", "content": results}]

    answered = send()

    assert [block.text for block in answered.content if block.type == "text"] == ["Take a hat."]
    assert answered.stop_reason == "end_turn"


def test_the_input_of_a_call_is_streamed(client: anthropic.Anthropic) -> None:
    """The helper sees the arguments grow, piece by piece."""
    with client.messages.stream(
        model="speaker", max_tokens=100, tools=[LOOK, LISTEN], messages=asks("How is the weather?")
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]

    assert "".join(pieces).startswith('{"at": "sky"}')


@pytest.mark.parametrize("display", ["summarized", "omitted"])
def test_thinking(display: Any, client: anthropic.Anthropic) -> None:
    """Thoughts come in a block of their own with a signature, hidden if so wished, and can be sent back."""
    asked: dict[str, Any] = {
        "model": "speaker",
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024, "display": display},
    }
    with client.messages.stream(messages=asks("ponder"), **asked) as stream:
        thoughts = "".join(event.thinking for event in stream if event.type == "thinking")
        message = stream.get_final_message()
    thought, said = message.content

    assert thought.type == "thinking" and said.type == "text"
    assert (thought.thinking, thoughts) == (("Deep thought.",) * 2 if display == "summarized" else ("", ""))
    assert thought.signature and said.text == "42"
    history = [*asks("ponder"), message.to_param(), *asks("France?")]
    assert client.messages.create(messages=history, **asked).stop_reason == "end_turn"


def test_tokens_are_counted_as_they_are_charged(client: anthropic.Anthropic) -> None:
    """The count of a prompt is the input that its message reports, cached or not; system and tools belong to it."""
    system = "You are terse. " * 20
    counted = client.messages.count_tokens(model="speaker", system=system, messages=asks("France?"))
    usage = client.messages.create(model="speaker", max_tokens=9, system=system, messages=asks("France?")).usage

    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert counted.input_tokens > client.messages.count_tokens(model="speaker", messages=asks("France?")).input_tokens


def test_a_prompt_that_is_too_long_is_counted_and_refused(client: anthropic.Anthropic) -> None:
    """An agent learns how long it is before it sends it, and is told what it looks for when it does."""
    long = asks("word " * 3000)

    assert client.messages.count_tokens(model="speaker", messages=long).input_tokens > 3000
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(model="speaker", max_tokens=9, messages=long)


def test_counting_and_refusing_while_the_model_is_busy(client: anthropic.Anthropic) -> None:
    """With its one slot and its line taken, the model still counts, and one more message is a `RateLimitError`."""
    slow = {"model": "speaker", "max_tokens": 1900, "stream": True}
    with client.messages.create(messages=asks("slowly, the first"), **slow) as running:
        assert next(iter(running)).type == "message_start"
        # Its status is held back for two seconds; then it streams pings while it waits for the slot.
        with client.messages.create(messages=asks("slowly, the second"), **slow) as waiting:
            assert next(iter(waiting)).type == "message_start"
            assert client.messages.count_tokens(model="speaker", messages=asks("how long?")).input_tokens == 3
            with pytest.raises(anthropic.RateLimitError) as refused:
                client.messages.create(model="speaker", max_tokens=9, messages=asks("France?"))
    assert refused.value.type == "rate_limit_error"
    assert int(refused.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"model": "ghost"}, anthropic.NotFoundError, "not_found_error"),
        ({"extra_body": {"temperature": 2}}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        ({"messages": asks("x" * BODY_BYTES_MAX)}, anthropic.ContentTooLargeError, "request_too_large"),
        ({"extra_headers": {"origin": "http://evil.example"}}, anthropic.PermissionDeniedError, "permission_error"),
    ],
)
def test_failures_are_the_sdks_own_exceptions(
    fields: dict[str, Any], error: type[anthropic.APIStatusError], kind: str, client: anthropic.Anthropic
) -> None:
    """Each with the vendor's type and the request's id, for a message, its stream and a count alike."""
    asked: dict[str, Any] = {"model": "speaker", "messages": asks("hi"), **fields}
    calls: list[Callable[[], object]] = [
        lambda: client.messages.create(max_tokens=9, **asked),
        lambda: client.messages.create(max_tokens=9, stream=True, **asked),
        lambda: client.messages.count_tokens(**asked),
    ]
    for call in calls:
        with pytest.raises(error) as raised:
            call()
        assert (raised.value.type, raised.value.body["request_id"]) == (kind, raised.value.request_id)


def test_a_service_that_holds_too_much_is_overloaded(client: anthropic.Anthropic) -> None:
    """The vendor's own status, 529: two bodies are too much where each alone would do."""
    half = " " + "x" * (BODY_BYTES_MAX // 2)
    asked = {"model": "speaker", "max_tokens": 1900}
    with client.messages.create(messages=asks("slowly" + half), stream=True, **asked) as running:
        assert next(iter(running)).type == "message_start"
        with pytest.raises(anthropic.OverloadedError) as refused:
            client.messages.create(messages=asks("France?" + half), **asked)
    assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")


def test_a_wrong_key_is_an_authentication_error(connect: Callable[..., anthropic.Anthropic]) -> None:
    """The SDK's exception, in the runbook's words."""
    with pytest.raises(anthropic.AuthenticationError, match="Invalid or missing API key"):
        connect(api_key="wrong").messages.create(model="speaker", max_tokens=9, messages=asks("hi"))


def test_a_crash_in_the_middle_is_never_a_whole_message(server: LiveServer, client: anthropic.Anthropic) -> None:
    """A worker that dies after its first words raises, and what was streamed until then is not taken for an answer."""
    model = server.script("mortal", SCRIPT)
    server.load(model)
    with client.messages.stream(model=model, max_tokens=1900, messages=asks("slowly")) as stream:
        assert next(iter(stream.text_stream)) == "drip "
        os.kill(server.worker(model)["pid"], signal.SIGKILL)
        with pytest.raises(anthropic.APIStatusError, match="died while it answered") as raised:
            stream.until_done()
        assert stream.current_message_snapshot.stop_reason is None
    assert raised.value.type == "api_error"
