"""The official `openai` SDK, validating every response strictly, against a running LMX with scripted models."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.contract.conftest import KEY
from tests.support.live import LiveServer, wait_until

MODEL = "actor"
SCRIPT = """
context_length: 1000
answers:
  - {contains: "tool: 12:30", pieces: ["It is", " 12:30", " and", " sunny", " in", " Oslo", "."]}
  - contains: "and the time"
    reasoning: ["Two", " questions", "."]
    tool_calls:
      - {name: weather, arguments: ['{"city":', ' "Oslo"}']}
      - {name: clock, arguments: ['{"city": "Oslo"}']}
  - {contains: "France", reasoning: ["Easy", "."], pieces: ["The", " capital", " is", " Paris", "."], logprob: -0.5}
  - {contains: "slowly", pieces: ["drip "], tokens: 900, token_seconds: 0.2}
  - {contains: "cut", pieces: ["word "], tokens: 50}
  - {contains: "crash", pieces: ["tick "], tokens: 50, token_seconds: 0.01}
  - {echo: true}
faults:
  - {when: token, number: 5, contains: "crash", do: kill}
"""
PARIS = "The capital is Paris."


@pytest.fixture(scope="module")
def server(service: LiveServer) -> LiveServer:
    """The service, with a model that has slashes in its id and one that does one thing at a time."""
    script = service.home / "models" / f"{service.script('script', SCRIPT)}.script.yaml"
    service.load(MODEL, path=str(script))
    service.load("org/one-slot", path=str(script), slots=1)
    return service


@pytest.fixture
def connect(server: LiveServer) -> Iterator[Callable[..., openai.OpenAI]]:
    """Makes clients that do not try again."""
    clients: list[openai.OpenAI] = []

    def client(**options: Any) -> openai.OpenAI:
        defaults = {"base_url": f"{server.url}/v1", "api_key": KEY, "max_retries": 0, "_strict_response_validation": True}
        clients.append(openai.OpenAI(**{**defaults, **options}))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


@pytest.fixture
def client(connect: Callable[..., openai.OpenAI]) -> openai.OpenAI:
    """A client with the right key."""
    return connect()


def asks(words: str) -> list[ChatCompletionMessageParam]:
    """A conversation of one question."""
    return [{"role": "user", "content": words}]


# --- chat -----------------------------------------------------------------------------------------------------------------


def test_a_chat_completion(client: openai.OpenAI) -> None:
    """Text, thoughts, finish reason and usage, in the SDK's own types."""
    completion = client.chat.completions.create(model=MODEL, messages=asks("Capital of France?"), user="ann")

    (choice,) = completion.choices
    assert (PARIS, "stop", MODEL) == (choice.message.content, choice.finish_reason, completion.model)
    assert "Easy." == (choice.message.model_extra or {})["reasoning_content"]
    assert completion.usage is not None and completion.usage.completion_tokens_details is not None
    assert (7, 2) == (completion.usage.completion_tokens, completion.usage.completion_tokens_details.reasoning_tokens)
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 7


def test_a_streamed_chat_completion(client: openai.OpenAI) -> None:
    """The pieces put together are the whole; the usage comes last."""
    with client.chat.completions.create(
        model=MODEL, messages=asks("Capital of France?"), stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)

    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert PARIS == "".join(delta.content or "" for delta in deltas)
    assert "Easy." == "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
    assert ["stop"] == [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason]
    assert last.usage is not None
    assert ([], 7) == (last.choices, last.usage.completion_tokens)


def test_keep_alives_of_a_quiet_stream_go_unnoticed(client: openai.OpenAI) -> None:
    """While the model is silent for 200 ms at a time, chunks without anything come, and the text stays what it is."""
    with client.chat.completions.create(model=MODEL, messages=asks("slowly"), stream=True, max_tokens=3) as stream:
        deltas = [chunk.choices[0].delta for chunk in stream]

    assert "drip drip drip " == "".join(delta.content or "" for delta in deltas)
    assert [delta for delta in deltas if delta.content is None and delta.role is None]


def test_the_sdks_stream_helper(client: openai.OpenAI) -> None:
    """Its events and the completion it puts together."""
    with client.chat.completions.stream(model=MODEL, messages=asks("Capital of France?"), logprobs=True) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        completion = stream.get_final_completion()

    assert PARIS == "".join(texts) == completion.choices[0].message.content
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [("The", -0.5), (" capital", -0.5)] == [(entry.token, entry.logprob) for entry in logprobs.content[:2]]


def test_several_choices_with_log_probabilities(client: openai.OpenAI) -> None:
    """`n` choices, each with the log-probabilities of its tokens and of alternatives; the prompt is paid for once."""
    completion = client.chat.completions.create(
        model=MODEL, messages=asks("Capital of France?"), n=3, logprobs=True, top_logprobs=2
    )

    assert [(0, PARIS), (1, PARIS), (2, PARIS)] == [(each.index, each.message.content) for each in completion.choices]
    for choice in completion.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        first = choice.logprobs.content[0]
        assert ("The", -0.5, list(b"The")) == (first.token, first.logprob, first.bytes)
        assert [("The", -0.5), ("<1>", -1.5)] == [(other.token, other.logprob) for other in first.top_logprobs]
    assert completion.usage is not None
    single = client.chat.completions.create(model=MODEL, messages=asks("Capital of France?")).usage
    assert single is not None
    assert (single.prompt_tokens, 3 * single.completion_tokens) == (
        completion.usage.prompt_tokens,
        completion.usage.completion_tokens,
    )


def test_several_choices_are_streamed(client: openai.OpenAI) -> None:
    """Each chunk names its choice, and every choice ends."""
    texts, ends = {0: "", 1: ""}, []
    with client.chat.completions.create(model=MODEL, messages=asks("Capital of France?"), n=2, stream=True) as stream:
        for chunk in stream:
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []

    assert ({0: PARIS, 1: PARIS}, [0, 1]) == (texts, sorted(ends))


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    """`max_completion_tokens` ends it with `length`."""
    (choice,) = client.chat.completions.create(model=MODEL, messages=asks("cut"), max_completion_tokens=4).choices

    assert ("length", "word word word word ") == (choice.finish_reason, choice.message.content)


# --- tools ----------------------------------------------------------------------------------------------------------------


class weather(BaseModel):  # noqa: N801 - the SDK names the tool after the class
    """Tell the weather."""

    city: str


class clock(BaseModel):  # noqa: N801
    """Tell the time."""

    city: str


TOOLS = [openai.pydantic_function_tool(weather), openai.pydantic_function_tool(clock)]
TOLD = {"weather": "sunny", "clock": "12:30"}
SUNNY = "It is 12:30 and sunny in Oslo."


def test_an_agent_calls_two_tools_and_answers(client: openai.OpenAI) -> None:
    """The loop of an agent: parallel calls, their results under the calls' ids, the answer."""
    messages = asks("The weather and the time in Oslo?")
    called: list[tuple[str, Any]] = []
    while True:
        (choice,) = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, n=1).choices
        if choice.finish_reason != "tool_calls":
            break
        assert choice.message.content is None
        messages.append(choice.message.to_dict())  # type: ignore[arg-type] # the SDK's own way to go on
        for call in choice.message.tool_calls or ():
            assert call.type == "function"
            called.append((call.function.name, json.loads(call.function.arguments)))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": TOLD[call.function.name]})

    assert [("weather", {"city": "Oslo"}), ("clock", {"city": "Oslo"})] == called
    assert SUNNY == choice.message.content


def test_calls_are_streamed_and_parsed_by_the_sdk(client: openai.OpenAI) -> None:
    """Its stream helper puts the pieces of arguments together and parses them into the tools' own types."""
    with client.chat.completions.stream(model=MODEL, messages=asks("The weather and the time?"), tools=TOOLS) as stream:
        done = [event.parsed_arguments for event in stream if event.type == "tool_calls.function.arguments.done"]
        (choice,) = stream.get_final_completion().choices

    assert [weather(city="Oslo"), clock(city="Oslo")] == done
    assert ("tool_calls", 2) == (choice.finish_reason, len(choice.message.tool_calls or ()))


def test_no_tool_is_called_when_none_may_be(client: openai.OpenAI) -> None:
    """`tool_choice: none` reaches the model."""
    (choice,) = client.chat.completions.create(
        model=MODEL, messages=asks("The weather and the time?"), tools=TOOLS, tool_choice="none"
    ).choices

    assert ("stop", None) == (choice.finish_reason, choice.message.tool_calls)


# --- legacy completions ---------------------------------------------------------------------------------------------------


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    """Prompts by choices, flattened, with echo; and a prompt of tokens."""
    completion = client.completions.create(model=MODEL, prompt=["one", "two"], n=2, echo=True)
    tokens = client.completions.create(model=MODEL, prompt=[[5, 6]])

    assert ["oneone", "oneone", "twotwo", "twotwo"] == [choice.text for choice in completion.choices]
    assert [0, 1, 2, 3] == [choice.index for choice in completion.choices]
    assert ["5 6"] == [choice.text for choice in tokens.choices]


def test_completions_with_log_probabilities(client: openai.OpenAI) -> None:
    """The legacy shape, and the best of several."""
    (choice,) = client.completions.create(model=MODEL, prompt="France", logprobs=2, best_of=3).choices

    assert choice.logprobs is not None
    assert ["The", " capital"] == (choice.logprobs.tokens or [])[:2]
    assert [0, 3] == (choice.logprobs.text_offset or [])[:2]
    assert [{"The": -0.5, "<1>": -1.5}] == (choice.logprobs.top_logprobs or [])[:1]


def test_streamed_completions(connect: Callable[..., openai.OpenAI]) -> None:
    """The pieces put together are the whole.

    Not validated strictly: the SDK's type knows no null for a finish reason that is still open, which the vendor sends.
    """
    with connect(_strict_response_validation=False).completions.create(model=MODEL, prompt="France", stream=True) as stream:
        chunks = list(stream)

    assert "Easy." + PARIS == "".join(chunk.choices[0].text for chunk in chunks)
    assert "stop" == chunks[-1].choices[0].finish_reason


# --- models ---------------------------------------------------------------------------------------------------------------


def test_models(client: openai.OpenAI) -> None:
    """The list, one of it with slashes in its id, and one that is not there."""
    listed = {model.id: model for model in client.models.list()}

    assert {MODEL, "org/one-slot"} <= set(listed)
    assert listed["org/one-slot"] == client.models.retrieve("org/one-slot")
    assert "local" == listed[MODEL].owned_by
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# --- failures -------------------------------------------------------------------------------------------------------------


def test_failures_are_the_sdks_own_exceptions(client: openai.OpenAI, connect: Callable[..., openai.OpenAI]) -> None:
    """Each status becomes the exception that users of the SDK catch, with our code and the field's name."""
    with pytest.raises(openai.AuthenticationError) as unauthorized:
        connect(api_key="wrong").chat.completions.create(model=MODEL, messages=asks("hi"))
    with pytest.raises(openai.NotFoundError) as not_loaded:
        client.chat.completions.create(model="nobody", messages=asks("hi"))
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=asks("hi"), n=17)
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model=MODEL, messages=asks("hi"), logit_bias={"1": 5})
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=MODEL, messages=asks("word " * 2000))

    assert ("invalid_api_key", "model_not_found") == (unauthorized.value.code, not_loaded.value.code)
    assert ("invalid_request_error", "n") == (wrong.value.code, wrong.value.param)
    assert ("not_supported", "logit_bias") == (unsupported.value.code, unsupported.value.param)
    assert ("context_length_exceeded", "messages") == (too_long.value.code, too_long.value.param)
    assert all(error.value.request_id for error in (unauthorized, not_loaded, wrong, unsupported, too_long))


def test_a_full_line_is_a_rate_limit_error(client: openai.OpenAI) -> None:
    """Where nobody can wait any more: RateLimitError, and the SDK is told when to try again."""
    with (
        client.chat.completions.create(model="org/one-slot", messages=asks("slowly"), n=16, stream=True),
        pytest.raises(openai.RateLimitError) as busy,
    ):
        client.chat.completions.create(model="org/one-slot", messages=asks("hi"), n=16)

    assert ("rate_limit_exceeded", "5") == (busy.value.code, busy.value.response.headers["retry-after"])


def test_a_crash_in_mid_stream_raises(client: openai.OpenAI, server: LiveServer) -> None:
    """The text so far, then an exception: nobody takes it for a whole answer. Another client's next request is served."""
    got = ""
    with (
        pytest.raises(openai.APIError) as lost,
        client.chat.completions.create(model=MODEL, messages=asks("crash"), stream=True) as stream,
    ):
        for chunk in stream:
            got += chunk.choices[0].delta.content or ""

    assert "worker_lost" == lost.value.code
    assert got and "tick tick tick tick ".startswith(got)
    server.wait_for_state(MODEL, "ready")
    assert client.chat.completions.create(model=MODEL, messages=asks("France")).choices[0].message.content == PARIS


def test_a_crash_in_mid_completion_raises(connect: Callable[..., openai.OpenAI], server: LiveServer) -> None:
    """The legacy dialect cuts off with an exception too. Its SDK type knows no open choice, so it is read leniently."""
    lenient = connect(_strict_response_validation=False)
    got = ""
    with (
        pytest.raises(openai.APIError) as lost,
        lenient.completions.create(model=MODEL, prompt="crash the completion", stream=True) as stream,
    ):
        for chunk in stream:
            got += chunk.choices[0].text

    assert "worker_lost" == lost.value.code
    assert got and "tick tick tick tick ".startswith(got)
    server.wait_for_state(MODEL, "ready")


def test_a_crash_raises_out_of_the_stream_helper(client: openai.OpenAI, server: LiveServer) -> None:
    """The helper that waits for the end of the answer raises too."""
    with (
        pytest.raises(openai.APIError) as lost,
        client.chat.completions.stream(model="org/one-slot", messages=asks("crash again")) as stream,
    ):
        stream.get_final_completion()

    assert "worker_lost" == lost.value.code
    server.wait_for_state("org/one-slot", "ready")


async def test_an_asynchronous_client_that_leaves_frees_its_place(server: LiveServer) -> None:
    """It stops reading in the middle of a long answer; the worker is idle soon after."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=asks("slowly"), stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()

    wait_until(lambda: server.worker(MODEL)["requests_active"] == 0, 10.0, "the worker to be idle")


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_cancelled_by_the_clients_own_id(client: openai.OpenAI, server: LiveServer, stream: bool) -> None:
    """From elsewhere, by the `X-Request-ID` that the client chose; who waits for the answer is told, its place is free."""
    options: dict[str, Any] = {"model": MODEL, "messages": asks("slowly"), "extra_headers": {"X-Request-ID": f"job/{stream}"}}
    with ThreadPoolExecutor(1) as elsewhere:
        cancelled = elsewhere.submit(_cancel_when_open, server, f"job/{stream}")
        with pytest.raises(openai.APIError) as ended:
            answer = client.chat.completions.create(stream=stream, **options)
            for _ in answer:
                pass

    assert {"request_id": f"job/{stream}", "cancelled": True} == cancelled.result()
    assert "request_cancelled" == ended.value.code
    wait_until(lambda: server.worker(MODEL)["requests_active"] == 0, 10.0, "the worker to be idle")


def _cancel_when_open(server: LiveServer, request_id: str) -> Any:
    answers: list[Any] = []

    def is_cancelled() -> bool:
        headers = {"Authorization": f"Bearer {KEY}"}
        answers.append(server.http.post(f"/v1/requests/{request_id}/cancel", headers=headers))
        return bool(answers[-1].status_code == 200)

    wait_until(is_cancelled, 30.0, "the request to be open")
    return answers[-1].json()
