"""LangChain's `ChatOpenAI`, unmodified but for its base URL."""

from collections.abc import Iterator

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.contract.conftest import KEY
from tests.support.live import LiveServer

SCRIPT = """
answers:
  - {contains: "tool: 12:30", pieces: ["It is", " 12:30", " and", " sunny", "."]}
  - contains: "and the time"
    tool_calls:
      - {name: weather, arguments: ['{"city":', ' "Oslo"}']}
      - {name: clock, arguments: ['{"city": "Oslo"}']}
  - {contains: "France", pieces: ["The", " capital", " is", " Paris", "."]}
  - {contains: "crash", pieces: ["tick "], tokens: 50, token_seconds: 0.01}
faults: [{when: token, number: 5, contains: "crash", do: kill}]
"""
PARIS = "The capital is Paris."


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


@tool
def clock(city: str) -> str:
    """Tell the time."""
    return "12:30"


@pytest.fixture(scope="module")
def model(service: LiveServer) -> str:
    """A loaded model."""
    name = service.script("for-langchain", SCRIPT)
    service.load(name)
    return name


@pytest.fixture
def chat(service: LiveServer, model: str) -> Iterator[ChatOpenAI]:
    """LangChain's chat model."""
    with openai.DefaultHttpxClient() as http:
        yield ChatOpenAI(
            model=model,
            base_url=f"{service.url}/v1",
            api_key=SecretStr(KEY),
            max_retries=0,
            http_client=http,
            stream_usage=True,
        )


def test_it_answers(chat: ChatOpenAI) -> None:
    """Text, finish reason and token counts in LangChain's own types."""
    answer = chat.invoke("Capital of France?")

    assert (PARIS, "stop") == (answer.content, answer.response_metadata["finish_reason"])
    assert answer.usage_metadata is not None
    assert 5 == answer.usage_metadata["output_tokens"]


def test_it_streams(chat: ChatOpenAI) -> None:
    """Chunks add up to the answer, token counts included."""
    chunks = list(chat.stream("Capital of France?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk

    assert len(chunks) > 2
    assert PARIS == whole.content
    assert isinstance(whole, AIMessage) and whole.usage_metadata is not None
    assert 5 == whole.usage_metadata["output_tokens"]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_agent_calls_two_tools(chat: ChatOpenAI, streaming: bool) -> None:
    """Parallel calls parsed from whole and streamed answers; the results go back and the model answers."""
    tools: dict[str, BaseTool] = {"weather": weather, "clock": clock}
    agent = chat.model_copy(update={"streaming": streaming}).bind_tools(list(tools.values()))
    messages: list[BaseMessage] = [HumanMessage("The weather and the time in Oslo?")]
    answer = agent.invoke(messages)
    assert [("weather", {"city": "Oslo"}), ("clock", {"city": "Oslo"})] == [
        (call["name"], call["args"]) for call in answer.tool_calls
    ]
    messages.append(answer)
    messages += [ToolMessage(tools[call["name"]].invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]

    assert "It is 12:30 and sunny." == agent.invoke(messages).content


def test_a_crash_raises(chat: ChatOpenAI, service: LiveServer, model: str) -> None:
    """An answer that breaks off is an exception, not a short answer."""
    with pytest.raises(openai.APIError, match="died while it answered"):
        list(chat.stream("crash"))

    service.wait_for_state(model, "ready")
