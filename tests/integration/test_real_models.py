"""Real models through the whole service, asked by the official OpenAI SDK as its users do."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.live import LiveServer
from tests.support.mlx_models import convert_smollm2_gguf, smollm2_gguf

pytestmark = pytest.mark.real

QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture
def client_of() -> Iterator[Callable[[LiveServer], openai.OpenAI]]:
    """SDK clients, unmodified but for the base URL."""
    clients: list[openai.OpenAI] = []

    def client(server: LiveServer) -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


def test_a_gguf_and_an_mlx_model_say_paris_side_by_side(
    serve: Callable[..., LiveServer], client_of: Callable[[LiveServer], openai.OpenAI], tmp_path: Path
) -> None:
    """Both backends in one service stream the right answer to the SDK, and the MLX one equals the GGUF it was made from."""
    mlx_directory = tmp_path / "smollm2-mlx"
    convert_smollm2_gguf(smollm2_gguf(), mlx_directory)
    server = serve("--demo")
    server.wait_for_state("smollm2-135m-instruct", "ready", seconds=60)
    server.load("smollm2-mlx", path=str(mlx_directory))
    client = client_of(server)

    assert [_streamed(client, model) for model in ("smollm2-135m-instruct", "smollm2-mlx")] == [
        "The capital of France is Paris."
    ] * 2
    assert {worker["backend"] for worker in server.http.get("/admin/workers").json()["workers"]} == {"llamacpp", "mlx"}


def test_the_demo_model_is_back_by_itself_after_kill_9(
    serve: Callable[..., LiveServer], client_of: Callable[[LiveServer], openai.OpenAI]
) -> None:
    """The stream under way ends with an SDK error, not as if it were complete; the next request is answered."""
    server = serve("--demo")
    model = "smollm2-135m-instruct"
    killed = server.wait_for_state(model, "ready", seconds=60)
    client = client_of(server)
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Write a long and detailed story about three friends on an island."}],
        temperature=0,
        stream=True,
        max_tokens=400,
    )
    with pytest.raises(openai.APIError, match="died while it answered"):
        for number, _ in enumerate(stream):
            if number == 5:
                os.kill(killed["pid"], signal.SIGKILL)

    assert _streamed(client, model) == "The capital of France is Paris."
    assert server.worker(model)["pid"] != killed["pid"]


def test_eight_clients_at_once_get_the_same_greedy_answer(
    serve: Callable[..., LiveServer], client_of: Callable[[LiveServer], openai.OpenAI]
) -> None:
    """Batching with others does not change what one client reads."""
    server = serve("--demo")
    model = "smollm2-135m-instruct"
    server.wait_for_state(model, "ready", seconds=60)
    client = client_of(server)
    streams = [
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True, max_tokens=32
        )
        for _ in range(8)
    ]
    answers = {"".join(chunk.choices[0].delta.content or "" for chunk in stream) for stream in streams}

    assert answers == {"The capital of France is Paris."}


def _streamed(client: openai.OpenAI, model: str) -> str:
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True, max_tokens=32
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_a_tool_round_trip_with_the_demo_model(
    serve: Callable[..., LiveServer], client_of: Callable[[LiveServer], openai.OpenAI]
) -> None:
    """A model whose template knows no tools is told of them and held to a call; streamed or not, it is the same call."""
    server = serve("--demo")
    model = "smollm2-135m-instruct"
    server.wait_for_state(model, "ready", seconds=60)
    completions = client_of(server).chat.completions
    parameters = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    messages: Any = [{"role": "user", "content": "How is the weather in Rome?"}]
    asked: Any = {"model": model, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "temperature": 0}

    (choice,) = completions.create(messages=messages, **asked).choices
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")

    parts = [chunk.choices[0].delta for chunk in completions.create(messages=messages, stream=True, **asked) if chunk.choices]
    functions = [part.function for delta in parts for part in delta.tool_calls or [] if part.function is not None]
    assert "".join(function.name or "" for function in functions) == "get_weather"
    assert "".join(function.arguments or "" for function in functions) == call.function.arguments

    messages += [choice.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    (answer,) = completions.create(messages=messages, **{**asked, "tool_choice": "none", "max_tokens": 16}).choices
    assert answer.message.content and not answer.message.tool_calls
