"""Bodies of very many small things: how many objects one request may become, in every dialect that has lists of them.

Each body has an element that cannot be right behind far too many that could be. It is never what the refusal is about: what
comes after the bound is not even looked at, so that no body holds the loop for longer than the bound takes.
"""

import re
from collections.abc import Iterable

import httpx
import msgspec
import pytest

from lmx_protocol import limits
from tests.gateway.service import FedService

FAR_TOO_MANY = 4 * limits.BODY_OBJECTS_MAX
CHAT, MESSAGES, COUNT, RESPONSES = (
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
)
TURN = '{"role":"user","content":""}'
PART = '{"type":"text","text":"x"}'
CALL = '{"id":"c","function":{"name":"f","arguments":""}}'
USER = '{"role":"user","content":%s}'


def crowd(element: str, how_many: int = FAR_TOO_MANY) -> str:
    """A list with a wrong end."""
    return f"[{','.join([element] * how_many)},0]"


def caller(calls: str) -> str:
    """A turn in which tools were called."""
    return f'{{"role":"assistant","tool_calls":{calls}}}'


def many_callers() -> str:
    """Turns that each have as many calls as one may have."""
    fair = f"[{','.join([CALL] * limits.TOOL_CALLS_MAX)}]"
    return f"[{','.join([caller(fair)] * (FAR_TOO_MANY // limits.TOOL_CALLS_MAX))},{caller('[0]')}]"


CASES = {
    "chat messages": (CHAT, f'"messages":{crowd(TURN)}', "messages"),
    "chat parts": (CHAT, f'"messages":[{USER % crowd(PART)}]', "messages.0.content"),
    "chat calls of one turn": (CHAT, f'"messages":[{caller(crowd(CALL, 20_000))}]', "messages.0.tool_calls"),
    "chat calls of many turns": (CHAT, f'"messages":{many_callers()}', "messages.61.tool_calls"),
    "messages": (MESSAGES, f'"messages":{crowd(TURN)}', "messages"),
    "messages to count": (COUNT, f'"messages":{crowd(TURN)}', "messages"),
    "blocks": (MESSAGES, f'"messages":[{USER % crowd(PART)}]', "messages.0.content"),
    "blocks within": (
        MESSAGES,
        f'"messages":[{USER % f"""[{{"type":"tool_result","content":{crowd(PART)}}}]"""}]',
        "messages.0.content.0.content",
    ),
    "blocks of the system prompt": (MESSAGES, f'"messages":[{TURN}],"system":{crowd(PART)}', "system"),
    "input items": (RESPONSES, f'"input":{crowd(TURN)}', "input"),
    "parts of an item": (RESPONSES, f'"input":[{USER % crowd(PART)}]', "input.0.content"),
    "documents": ("/v1/rerank", f'"query":"q","documents":{crowd(PART)}', "documents"),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_crowded_body_is_refused_where_it_is_too_much(
    name: str, client: httpx.AsyncClient, service: FedService
) -> None:
    """A 400 that names the first element beyond the bound, though what follows it is wrong in another way."""
    path, fields, place = CASES[name]

    response = await client.post(path, content=f'{{"model":"org/model",{fields}}}')

    error = response.json()["error"]
    assert 400 == response.status_code
    assert f"{limits.BODY_OBJECTS_MAX} objects" in error["message"]
    assert [] == service.answers
    # Anthropic's envelope has no `param`; its message begins with it.
    assert re.match(rf"{place}\.\d+", error.get("param") or error["message"])


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, f'"messages":[{TURN}],"modalities":%s', "modalities"),
        (RESPONSES, '"input":"hi","include":%s', "include"),
        (MESSAGES, f'"messages":[{TURN}],"mcp_servers":%s', "mcp_servers"),
    ],
)
async def test_lists_of_words_are_refused_by_their_size(
    path: str, fields: str, param: str, client: httpx.AsyncClient, service: FedService
) -> None:
    """They have no objects to count, and are not made either when they are too long."""
    response = await client.post(
        path, content=f'{{"model":"org/model",{fields % crowd(chr(34) * 2, limits.RAW_FIELD_BYTES_MAX // 2)}}}'
    )

    error = response.json()["error"]
    assert 400 == response.status_code
    assert error.get("param", param) == param
    assert error["message"].startswith(f"{param}:")
    assert [] == service.answers


def conversation(parts_each: Iterable[int]) -> bytes:
    """A chat of turns with so many parts."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "x"}] * parts} for parts in parts_each]
    return msgspec.json.encode({"model": "org/model", "messages": turns})


async def test_as_many_as_there_may_be_are_served(client: httpx.AsyncClient, service: FedService) -> None:
    """The body itself is one of them; one part more is one too many, in this request alone."""
    turns = limits.BODY_OBJECTS_MAX // 4
    most = conversation([3] * (turns - 1) + [2])

    assert 400 == (await client.post(CHAT, content=conversation([3] * turns))).status_code
    assert 200 == (await client.post(CHAT, content=most)).status_code
    assert 200 == (await client.post(CHAT, content=most)).status_code
    assert 2 == len(service.answers)


async def test_very_many_turns_of_one_role_are_joined_once(client: httpx.AsyncClient, service: FedService) -> None:
    """Each turn's text is copied into the one message that they become, not once more for every turn after it."""
    turns = [{"role": "user", "content": f"{number} {'x' * 4000}"} for number in range(limits.MESSAGES_MAX)]

    response = await client.post(MESSAGES, json={"model": "org/model", "max_tokens": 1, "messages": turns})

    assert 200 == response.status_code
    (asked,) = (answer.request for answer in service.answers)
    assert ["\n".join(turn["content"] for turn in turns)] == [message.content for message in asked.messages]
