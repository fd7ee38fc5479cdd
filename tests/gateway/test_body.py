"""A corpus of bad bodies: each gets a clear 400 that names the field, quickly, and none a 500."""

import time

import httpx
import pytest

from tests.gateway.service import FedService

GOOD = '"model":"org/model","messages":[{"role":"user","content":"hi"}]'
MILLION = 1_000_000

CORPUS: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", None),
    "array": (b"[]", None),
    "string": (b'"x"', None),
    "null": (b"null", None),
    "truncated": (b'{"model":', None),
    "trailing": (f"{{{GOOD}}} x".encode(), None),
    "nul byte": (b"{\x00}", None),
    "byte order mark": (b"\xef\xbb\xbf{}", None),
    "invalid utf-8": (b'{"model":"m\xff","messages":[]}', None),
    "lone high surrogate": (b'{"model":"\\ud800 and more text","messages":[]}', None),
    "lone low surrogate": (b'{"model":"\\udc00 and more text","messages":[]}', None),
    "lone surrogate in an unknown field": (f'{{{GOOD},"x":"\\ud800 and more text"}}'.encode(), None),
    "not a number": (f'{{{GOOD},"temperature":NaN}}'.encode(), None),
    "infinite": (f'{{{GOOD},"temperature":1e999}}'.encode(), "temperature"),
    "5000 digits": (f'{{{GOOD},"max_tokens":{"9" * 5000}}}'.encode(), "max_tokens"),
    "5000 digits for a float": (f'{{{GOOD},"temperature":{"9" * 5000}}}'.encode(), "temperature"),
    "deep": (b"[" * MILLION, None),
    "deep in an unknown field": (f'{{{GOOD},"x":'.encode() + b"[" * MILLION + b"]" * MILLION + b"}", None),
    "deep objects": (f'{{{GOOD},"x":'.encode() + b'{"a":' * MILLION, None),
    "deep in a kept field": (f'{{{GOOD},"tools":'.encode() + b"[" * MILLION + b"]" * MILLION + b"}", None),
    "deep content": (b'{"model":"m","messages":[{"role":"user","content":' + b"[" * MILLION, "messages.0.content.0"),
    "no model": (b'{"messages":[{"role":"user","content":"x"}]}', "model"),
    "empty model": (b'{"model":"","messages":[{"role":"user","content":"x"}]}', "model"),
    "huge model": (b'{"model":"%s","messages":[]}' % (b"m" * MILLION), "model"),
    "no messages": (b'{"model":"m"}', "messages"),
    "empty messages": (b'{"model":"m","messages":[]}', "messages"),
    "no role": (b'{"model":"m","messages":[{"content":"x"}]}', "messages.0.role"),
    "unknown role": (b'{"model":"m","messages":[{"role":"robot","content":"x"}]}', "messages.0.role"),
    "content of a wrong type": (b'{"model":"m","messages":[{"role":"user","content":1}]}', "messages.0.content"),
    "text part without text": (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]}]}',
        "messages.0.content.0.text",
    ),
    "negative max_tokens": (f'{{{GOOD},"max_tokens":-1}}'.encode(), "max_tokens"),
    "zero max_tokens": (f'{{{GOOD},"max_tokens":0}}'.encode(), "max_tokens"),
    "boolean max_tokens": (f'{{{GOOD},"max_tokens":true}}'.encode(), "max_tokens"),
    "hot": (f'{{{GOOD},"temperature":2.1}}'.encode(), "temperature"),
    "top_p over one": (f'{{{GOOD},"top_p":1.5}}'.encode(), "top_p"),
    "a billion choices": (f'{{{GOOD},"n":1000000000}}'.encode(), "n"),
    "stream of a wrong type": (f'{{{GOOD},"stream":"yes"}}'.encode(), "stream"),
    "stop of a wrong type": (f'{{{GOOD},"stop":[1]}}'.encode(), "stop.0"),
    "a million stops": (f'{{{GOOD},"stop":['.encode() + b",".join([b'"x"'] * MILLION) + b"]}", "stop"),
    "bias of a word": (f'{{{GOOD},"logit_bias":{{"x":1}}}}'.encode(), "logit_bias"),
    "bias too strong": (f'{{{GOOD},"logit_bias":{{"1":101}}}}'.encode(), "logit_bias"),
    "seed too large": (f'{{{GOOD},"seed":{2**63}}}'.encode(), "seed"),
}


@pytest.mark.parametrize("name", CORPUS)
async def test_a_bad_body_is_a_400_that_names_the_field(name: str, client: httpx.AsyncClient, service: FedService) -> None:
    """Nothing of the corpus reaches the service, and each case says what is wrong."""
    body, param = CORPUS[name]

    response = await client.post("/v1/chat/completions", content=body)

    error = response.json()["error"]
    assert (400, param) == (response.status_code, error["param"])
    assert error["message"]
    assert [] == service.answers


async def test_a_depth_bomb_is_refused_at_once(client: httpx.AsyncClient) -> None:
    """A million levels cost no more than reading them: no recursion, no blocked loop."""
    body, _ = CORPUS["deep in an unknown field"]
    started = time.perf_counter()

    response = await client.post("/v1/chat/completions", content=body)

    assert 400 == response.status_code
    assert time.perf_counter() - started < 0.5  # generous: it takes a few milliseconds where nothing else runs


@pytest.mark.parametrize("extra", ['"x":%s' % ("9" * 5000), '"tools":null', '"user":"\\u0000"', '"model":"org/model"'])
async def test_odd_but_legal_bodies_are_served(client: httpx.AsyncClient, extra: str) -> None:
    """Unknown fields, nulls, escaped NUL characters and repeated keys are no reason to refuse."""
    response = await client.post("/v1/chat/completions", content=f"{{{GOOD},{extra}}}")

    assert 200 == response.status_code
