"""E. Requests that are slow, too large, malformed, hostile or not ours to serve, over raw sockets: F57-F64 and F66."""

import json
import os
import statistics
import threading
import time

import psutil
import pytest

from lmx_protocol import limits
from tests.support.bad_bodies import CORPUS, GOOD, MILLION
from tests.support.live import LiveServer, wait_until
from tests.support.wire import Response, Wire, chat_request, request, unread_bytes
from tests.support.world import World

FULL = os.environ.get("LMX_FAULTS_FULL") == "1"
BODY_SECONDS = limits.BODY_SECONDS if FULL else 3.0
MEBIBYTE = 1024**2
CHAT_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
PROBE = request("GET", "/healthz")
HEADS = {
    "silence": b"",
    "half a request line": b"GET /heal",
    "half a header": b"GET /healthz HTTP/1.1\r\nHost: loc",
    "after an answer": PROBE,
}
REFUSED_SECONDS = 0.05
ATTEMPTS = 5


def ask(server: LiveServer, data: bytes) -> Response:
    """One request on a connection of its own."""
    with Wire(server.url) as wire:
        wire.send(data)
        return wire.response()


def refused_within(world: World, name: str, data: bytes) -> Response:
    """Send it several times; the fastest refusal must be within the bound: what LMX needs, not what else this machine does."""
    seconds = []
    for _ in range(ATTEMPTS):
        with Wire(world.server.url) as wire:
            started = time.monotonic()
            wire.send(data)
            response = wire.response()
            seconds.append(time.monotonic() - started)
    world.measure(f"refused, {name}", min(seconds) * 1000, "ms", REFUSED_SECONDS * 1000)
    return response


# --- F57 ----------------------------------------------------------------------------------------------------------------------


def _drip(wire: Wire, data: bytes, seconds_per_byte: float) -> None:
    """Send byte by byte until it is sent or the server has had enough."""
    try:
        for byte in data:
            wire.send(bytes([byte]))
            time.sleep(seconds_per_byte)
    except OSError:
        return


@pytest.mark.fault("F57", "Slow headers are cut off after five seconds, slow bodies get 408 after their deadline.")
def test_f57_slow_headers(world: World) -> None:
    """Silence, a partial line, a partial header, a used connection and a header dripped byte by byte: all closed at 5 s."""
    server = world.serve()
    closed_after: dict[str, float] = {}

    def watch(name: str, wire: Wire, opened: float) -> None:
        wire.rest()
        closed_after[name] = time.monotonic() - opened

    threads, wires = [], []
    for name, data in {**HEADS, "dripped": b""}.items():
        wire = Wire(server.url)
        wires.append(wire)
        wire.send(data)
        threads.append(threading.Thread(target=watch, args=(name, wire, time.monotonic())))
        if name == "dripped":
            threads.append(threading.Thread(target=_drip, args=(wire, PROBE[:-2] + b"X-Slow: " + b"x" * 100, 0.2)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for wire in wires:
        wire.close()

    for name, seconds in closed_after.items():
        world.measure(f"closed, {name}", seconds, "s", limits.KEEP_ALIVE_SECONDS + 1.0)
        assert seconds > limits.KEEP_ALIVE_SECONDS - 0.5, name


@pytest.mark.fault("F57", "Slow headers are cut off after five seconds, slow bodies get 408 after their deadline.")
@pytest.mark.parametrize("seconds_per_byte", [None, 0.2], ids=["stalled", "dripped"])
def test_f57_slow_body(world: World, seconds_per_byte: float | None) -> None:
    """A body that stalls or drips gets 408 when its time is up, and the connection is closed."""
    server = world.serve(LMX_SERVER__BODY_SECONDS=str(BODY_SECONDS))
    with Wire(server.url) as wire:
        wire.send(CHAT_HEAD + b"Content-Length: 100000\r\n\r\n{")
        started = time.monotonic()
        if seconds_per_byte is not None:
            dripping = threading.Thread(target=_drip, args=(wire, b" " * 1000, seconds_per_byte))
            dripping.start()
        response = wire.response()
        world.measure("408 after", time.monotonic() - started, "s", BODY_SECONDS + 1.0)
        wire.rest()
        if seconds_per_byte is not None:
            dripping.join()

    assert (response.status, response.headers["connection"]) == (408, "close")
    assert response.error["code"] == "request_timeout"


# --- F58 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F58", "An oversized body gets 413 without being read to its end, however its size is told.")
@pytest.mark.parametrize("framing", ["declared", "chunked", "20 digits"])
def test_f58_oversized_body(world: World, framing: str) -> None:
    """A gigabyte that nobody wants: 413, the connection closed after a bounded part of it, and no memory spent."""
    server = world.serve()
    lines = {
        "declared": f"Content-Length: {1024**3}",
        "chunked": "Transfer-Encoding: chunked",
        "20 digits": "Content-Length: 99999999999999999999",
    }
    chunk = b"x" * 65536
    if framing == "chunked":
        chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
    supervisor = psutil.Process(server.pid)
    before_bytes = supervisor.memory_info().rss
    with Wire(server.url) as wire:
        wire.send(CHAT_HEAD + lines[framing].encode() + b"\r\n\r\n")
        if framing != "chunked":
            assert wire.response().status == 413
        taken_bytes = wire.send_until_closed(chunk, 1024**3)
    grown_bytes = supervisor.memory_info().rss - before_bytes

    world.measure("taken of a gigabyte", taken_bytes / MEBIBYTE, "MiB", limits.UNREAD_BODY_BYTES_MAX / MEBIBYTE + 16)
    world.measure("memory of the supervisor", grown_bytes / MEBIBYTE, "MiB", 3 * limits.BODY_BYTES_MAX / MEBIBYTE)


@pytest.mark.fault("F58", "An oversized body gets 413 without being read to its end, however its size is told.")
def test_f58_oversized_chunked_body_is_answered(world: World) -> None:
    """Without a declared length the bytes are counted, and a client that stops in time reads 413."""
    server = world.serve(LMX_SERVER__BODY_BYTES_MAX="1024")
    chunk = b"400\r\n%b\r\n" % (b"x" * 1024)
    with Wire(server.url) as wire:
        wire.send(CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        response = wire.response()

    assert (response.status, response.error["code"]) == (413, "request_too_large")


@pytest.mark.fault("F58", "An oversized body gets 413 without being read to its end, however its size is told.")
def test_f58_lying_length(world: World) -> None:
    """More bytes than declared are no request: the first is answered, what follows is refused and never served."""
    server = world.serve()
    body = b'{"model": "none", "messages": [{"role": "user", "content": "x"}]}'
    with Wire(server.url) as wire:
        wire.send(CHAT_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"{" * 1000 + b"\r\n\r\n" + PROBE)
        first, second = wire.response(), wire.response()
        rest = wire.rest()

    assert (first.status, second.status, rest) == (404, 400, b"")


@pytest.mark.fault("F58", "An oversized body gets 413 without being read to its end, however its size is told.")
def test_f58_many_bodies_together(world: World) -> None:
    """Each body is small enough, all together are not: the one too many gets 503 with a Retry-After, and room comes back."""
    server = world.serve(LMX_SERVER__BODY_BYTES_MAX="1048576", LMX_SERVER__HELD_BODIES_BYTES_MAX="2097152")
    large = b'{"model": "none", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 1_000_000)
    head = CHAT_HEAD + b"Content-Length: %d\r\n\r\n" % len(large)
    with Wire(server.url) as first, Wire(server.url) as second:
        for wire in (first, second):
            wire.send(head + large[:-1])
        wait_until(lambda: unread_bytes(first, second) == 0, 10.0, "both bodies to be read")
        server.http.get("/healthz")
        refused = ask(server, head + large)
        for wire in (first, second):
            wire.send(large[-1:])
        served = [wire.response().status for wire in (first, second)]

    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert served == [404, 404]
    assert ask(server, head + large).status == 404


# --- F59, F60 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F59", "A malformed body gets a 400 that names the field, never a 500.")
def test_f59_malformed_bodies(world: World) -> None:
    """The whole corpus, over one connection after the other: bad JSON, bad UTF-8, BOM, NUL, surrogates, NaN, huge numbers."""
    server = world.serve()
    wrong = []
    for name, (body, param) in CORPUS.items():
        response = ask(server, CHAT_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        if (response.status, response.error["param"]) != (400, param) or not response.error["message"]:
            wrong.append((name, response.status, response.body))
    world.measure("bodies refused", len(CORPUS), "")

    assert wrong == []


@pytest.mark.fault("F60", "A body nested a million deep gets 400 in less than 50 ms.")
@pytest.mark.parametrize(
    ("field", "opened"),
    [("unknown", b"["), ("tools", b"["), ("messages", b"["), ("unknown", b'{"a":'), ("response_format", b'{"a":')],
)
def test_f60_nesting(world: World, field: str, opened: bytes) -> None:
    """In known and unknown fields, arrays and objects: no recursion that could crash, no time worth speaking of."""
    world.serve()
    others = GOOD.encode() if field != "messages" else b'"model":"m"'
    body = b'{%b,"%b":' % (others, field.encode()) + opened * MILLION
    data = CHAT_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body

    assert refused_within(world, f"{len(body) // MILLION} MB in {field!r}", data).status == 400


# --- F61, F62 -----------------------------------------------------------------------------------------------------------------

SMUGGLED = {
    "length and encoding": (CHAT_HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "encoding and length": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (CHAT_HEAD + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n", 400),
    "a list of lengths": (CHAT_HEAD + b"Content-Length: 5, 0\r\n\r\n", 400),
    "length with a sign": (CHAT_HEAD + b"Content-Length: +5\r\n\r\n", 400),
    "negative length": (CHAT_HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "length in hex": (CHAT_HEAD + b"Content-Length: 0x5\r\n\r\n", 400),
    "encoding twice": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "encoding in disguise": (CHAT_HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "identity and chunked": (CHAT_HEAD + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 501),
    "gzip": (CHAT_HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "space before the colon": (CHAT_HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "NUL in a header": (CHAT_HEAD + b"X: a\0b\r\n\r\n", 400),
    "bare CR in a header": (CHAT_HEAD + b"X: a\rContent-Length: 5\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "bad chunk size": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "negative chunk size": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "endless chunk size": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400),
    "chunk longer than told": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
    "no version": (b"GET /healthz\r\n\r\n", 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}


@pytest.mark.fault("F61", "Ambiguous framing gets 400 or 501 and a close; a second request behind it is never served.")
def test_f61_smuggling(world: World) -> None:
    """Each of the corpus is one error and the end of the connection, whatever is pipelined behind it."""
    server = world.serve()
    wrong = []
    for name, (data, status) in SMUGGLED.items():
        with Wire(server.url) as wire:
            wire.send(data + request("GET", "/admin/workers"))
            response = wire.response()
            rest = wire.rest()
        if (response.status, response.headers.get("connection"), rest) != (status, "close", b""):
            wrong.append((name, response, rest))
    world.measure("requests refused", len(SMUGGLED), "")

    assert wrong == []


@pytest.mark.fault("F61", "Ambiguous framing gets 400 or 501 and a close; a second request behind it is never served.")
@pytest.mark.parametrize(
    "data",
    [b"GET /healthz HTTP/1.1\nHost: localhost\n\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n"],
    ids=["bare LF", "folded header"],
)
def test_f61_old_but_unambiguous_forms_are_served(world: World, data: bytes) -> None:
    """Bare line feeds and folded headers leave no doubt where a message ends: they are accepted, as documented here."""
    assert ask(world.serve(), data).status == 200


@pytest.mark.fault("F62", "Header floods get 431, bad names 400.")
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"".join(b"X-%d: x\r\n" % number for number in range(10_000)), 431),
        (b"X: " + b"x" * 20_000 + b"\r\n", 431),
        (b"x" * 20_000 + b": x\r\n", 431),
        (b"b\xc3\xa4d: x\r\n", 400),
        (b"bad name: x\r\n", 400),
        (b": no name\r\n", 400),
        (b"no colon\r\n", 400),
    ],
    ids=["10,000 headers", "20 KB value", "20 KB name", "umlaut", "space", "no name", "no colon"],
)
def test_f62_header_floods(world: World, lines: bytes, status: int) -> None:
    """Too many or too long is 431, what is no header is 400, both in our envelope and with a close."""
    server = world.serve()
    with Wire(server.url) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n" + PROBE)
        response = wire.response()
        rest = wire.rest()

    assert (response.status, response.headers["connection"], rest) == (status, "close", b"")
    assert set(response.error) == {"message", "type", "param", "code"}


# --- F63 ----------------------------------------------------------------------------------------------------------------------

HOSTILE = {
    "a billion choices": ({"n": 10**9}, 400, "n"),
    "negative max_tokens": ({"max_tokens": -1}, 400, "max_tokens"),
    "huge max_tokens": ({"max_tokens": 10**40}, 400, "max_tokens"),
    "a million stop strings": ({"stop": ["x"] * MILLION}, 400, "stop"),
    "giant schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"properties": {str(number): {"type": "string"} for number in range(20_000)}}},
            }
        },
        400,
        "response_format.json_schema.schema",
    ),
    "model in another directory": ({"model": "../../etc/passwd"}, 404, None),
    "model with an absolute path": ({"model": "/etc/passwd"}, 404, None),
    "model with a NUL": ({"model": "m\0"}, 404, None),
    "model name of 1 MB": ({"model": "m" * MILLION}, 400, "model"),
    "a million logit biases": ({"logit_bias": {str(number): 1 for number in range(100_000)}}, 400, "logit_bias"),
    "temperature beyond floats": ({"temperature": 10**400}, 400, "temperature"),
}


@pytest.mark.fault("F63", "Hostile values get 400 or 404 within 50 ms.")
@pytest.mark.parametrize("name", HOSTILE)
def test_f63_hostile_values(world: World, name: str) -> None:
    """Values made to cost: refused before they cost anything."""
    fields, status, param = HOSTILE[name]
    server = world.serve()
    response = refused_within(world, name, chat_request({**server.chat_body("none", "x"), **fields}))

    assert (response.status, response.error["param"]) == (status, param)


# --- F64 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "F64", "Foreign hosts, foreign origins and missing keys are refused, and a wrong key tells nothing by its time."
)
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "rebound.example"}, 403, "foreign_host"),
        ({"Host": "rebound.example:1234"}, 403, "foreign_host"),
        ({"Origin": "https://evil.example"}, 403, "foreign_origin"),
        ({"Origin": "null"}, 403, "foreign_origin"),
        ({"Origin": "http://localhost:3000"}, 200, None),
        ({"Host": "127.0.0.1"}, 200, None),
        ({"Host": "studio.local"}, 200, None),
    ],
)
def test_f64_foreign_sites(world: World, headers: dict[str, str], status: int, code: str | None) -> None:
    """DNS rebinding and pages of other sites end at 403; this machine's own names and the configured ones are served."""
    server = world.serve(LMX_SERVER__ALLOWED_HOSTS='["studio.local"]')
    response = ask(server, request("GET", "/v1/models", **headers))

    assert response.status == status
    assert code is None or response.error["code"] == code


@pytest.mark.fault(
    "F64", "Foreign hosts, foreign origins and missing keys are refused, and a wrong key tells nothing by its time."
)
def test_f64_keys(world: World) -> None:
    """Without the key 401 and 403; a key that is wrong in its first or in its last character is refused in the same time."""
    key = "right-" + "k" * 500
    server = world.prepare(LMX_SECURITY__INFERENCE_API_KEY=key, LMX_SECURITY__ADMIN_KEY=key[::-1])
    server.start()
    server.http.headers["X-Admin-Key"] = key[::-1]
    seconds: dict[str, list[float]] = {"first": [], "last": []}
    with Wire(server.url) as wire:
        for _ in range(200):
            for name, wrong in (("first", "x" + key[1:]), ("last", key[:-1] + "x")):
                started = time.perf_counter()
                wire.send(request("GET", "/v1/models", X_Api_Key=wrong))
                assert wire.response().status == 401
                seconds[name].append(time.perf_counter() - started)
    difference_seconds = abs(statistics.median(seconds["first"]) - statistics.median(seconds["last"]))
    world.measure("difference by the place of the error", difference_seconds * 1e6, "µs")

    assert ask(server, request("GET", "/v1/models")).status == 401
    assert ask(server, request("GET", "/admin/status")).status == 403
    assert ask(server, request("GET", "/v1/models", Authorization=f"Bearer {key}")).status == 200
    assert ask(server, request("GET", "/healthz")).status == 200


# --- F66 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F66", "After an error response the connection is either framed for the next request or closed.")
def test_f66_connection_after_an_error(world: World) -> None:
    """Every kind of error, then a good request on the same connection: served, or the error announced the close."""
    server = world.serve(LMX_SERVER__BODY_BYTES_MAX="2048")
    chat = {"model": "none", "messages": [{"role": "user", "content": "x"}]}
    errors = {
        "no such route": (request("GET", "/nowhere"), 404),
        "wrong method": (request("POST", "/healthz", b"{}"), 405),
        "no such model": (chat_request(chat), 404),
        "no such model, streamed": (chat_request({**chat, "stream": True}), 404),
        "bad JSON": (request("POST", "/v1/chat/completions", b"{"), 400),
        "unread body": (request("DELETE", "/v1/models", b"x" * 2000), 405),
        "too large": (request("POST", "/v1/chat/completions", b"x" * 4000), 413),
        "foreign": (request("GET", "/healthz", Origin="https://evil.example"), 403),
    }
    for name, (data, status) in errors.items():
        with Wire(server.url) as wire:
            wire.send(data)
            response = wire.response()
            assert response.status == status, (name, response)
            assert json.loads(response.body)["error"]["code"], name
            if response.headers.get("connection") == "close":
                assert wire.rest() == b"", name
            else:
                wire.send(PROBE)
                assert wire.response().status == 200, name
