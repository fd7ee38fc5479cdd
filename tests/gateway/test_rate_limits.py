"""Rate limits: whose, how many, how they are told, and that a reload changes them."""

import json

import pytest
from starlette.applications import Starlette

from lmx_supervisor.config.rate_limits import RateLimit
from lmx_supervisor.config.schema import Config, NamedKey, RateLimitConfig, SecurityConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.moving_windows import MovingWindows
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService
from tests.gateway.test_chat_socket import CHAT, Socket

TWO = RateLimitConfig(enabled=True, default_limit="2/hour")
MESSAGE = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def service_with(**security: object) -> FedService:
    """A service with this security."""
    return FedService(Config(security=SecurityConfig(**security)))  # type: ignore[arg-type]  # the test's own fields


async def ask(
    app: Starlette, path: str = "/v1/models", *, key: str = "", peer: str = "192.0.2.1", body: object = None
) -> tuple[int, dict[str, str], dict[str, object]]:
    """Status, headers and body of one request."""
    headers = {"X-Api-Key": key} if key else {}
    method, sent = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    request = Exchange(app, method, path, body=sent, headers=headers, peer=peer)
    start = await request.message()
    answer = json.loads(await request.rest())
    await request.done()
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, answer


async def statuses(app: Starlette, count: int, path: str = "/v1/models", *, key: str = "", body: object = None) -> list[int]:
    """Of so many requests, one after the other."""
    return [(await ask(app, path, key=key, body=body))[0] for _ in range(count)]


async def test_what_is_over_the_limit_is_told_to_wait() -> None:
    """429 in the envelope, when to come back in whole seconds, and on every answer how much is left."""
    app = create_app(service_with(rate_limit=TWO))
    _, first, _ = await ask(app)
    await ask(app)
    status, headers, body = await ask(app)

    assert (first["x-ratelimit-limit"], first["x-ratelimit-remaining"]) == ("2", "1")
    assert (status, body["error"]["code"], body["error"]["param"]) == (429, "rate_limit_exceeded", None)  # type: ignore[index]
    assert 3590 <= int(headers["retry-after"]) <= 3600
    assert headers["ratelimit-policy"] == '"default";q=2;w=3600'
    assert headers["ratelimit"] == f'"default";r=0;t={headers["retry-after"]}'


async def test_anthropics_clients_are_told_in_their_envelope() -> None:
    """`rate_limit_error`, which their SDK raises as what it is."""
    app = create_app(service_with(rate_limit=TWO))
    await statuses(app, 2)
    status, headers, body = await ask(app, "/v1/messages", body=MESSAGE)

    assert (status, body["type"], body["error"]["type"]) == (429, "error", "rate_limit_error")  # type: ignore[index]
    assert int(headers["retry-after"]) > 0


async def test_limits_are_off_by_default() -> None:
    """Nobody is counted, and nothing is told."""
    app = create_app(service_with())
    status, headers, _ = await ask(app)

    assert (status, [name for name in headers if "ratelimit" in name]) == (200, [])


async def test_probes_and_administration_are_not_limited() -> None:
    """Only what lies below /v1 is counted, and there not what the admin key asks for."""
    app = create_app(service_with(rate_limit=TWO, admin_key="admin", inference_api_key="k"))

    assert await statuses(app, 4, "/healthz") == [200] * 4
    assert await statuses(app, 4, key="admin") == [200] * 4
    assert await statuses(app, 3, key="k") == [200, 200, 429]


async def test_each_address_is_counted_for_itself_where_no_key_is_needed() -> None:
    """Of IPv6 the network of a site, because everybody there has as many addresses as he likes."""
    app = create_app(service_with(rate_limit=TWO))
    one = [(await ask(app, peer=peer))[0] for peer in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")]
    six = [(await ask(app, peer=peer))[0] for peer in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")]

    assert one == six == [200, 200, 429, 200]


async def test_what_a_client_says_of_its_address_counts_only_from_a_trusted_proxy() -> None:
    """Nobody escapes a limit by a header of his own."""
    trusting = {"honor_x_forwarded_for": True, "trusted_proxies": ("192.0.2.1",)}
    for security, expected in (({}, 429), (trusting, 200)):
        app = create_app(service_with(rate_limit=TWO, **security))
        answers = []
        for number in range(3):
            request = Exchange(app, "GET", "/v1/models", headers={"X-Forwarded-For": f"198.51.100.{number}"}, peer="192.0.2.1")
            answers.append((await request.message())["status"])
            await request.rest()
            await request.done()
        assert answers == [200, 200, expected]


async def test_a_named_key_has_limits_of_its_own() -> None:
    """Its own number where it has one, whether limits are on or not; the general one, for itself, where it has none."""
    keys = {"own": NamedKey(key="a", requests_per_minute=3), "one": NamedKey(key="b"), "two": NamedKey(key="c")}
    service = service_with(inference_keys=keys)
    app = create_app(service)

    assert await statuses(app, 4, key="a") == [200, 200, 200, 429]
    assert await statuses(app, 4, key="b") == [200] * 4
    service.config = Config(security=SecurityConfig(inference_keys=keys, rate_limit=TWO))
    assert await statuses(app, 3, key="b") == [200, 200, 429]
    assert await statuses(app, 3, key="c") == [200, 200, 429]


@pytest.mark.parametrize(
    ("changed", "path", "body", "expected"),
    [
        (RateLimitConfig(enabled=True, default_limit="3/hour"), "/v1/models", None, [200, 200, 200, 429]),
        (RateLimitConfig(enabled=True, default_limit="9/second;1/hour"), "/v1/models", None, [200, 429, 429, 429]),
        (RateLimitConfig(enabled=True, chat_completions_limit="1/hour"), "/v1/messages", MESSAGE, [200, 429, 429, 429]),
        (RateLimitConfig(enabled=True, chat_completions_limit="1/hour"), "/v1/models", None, [200, 200, 200, 200]),
        (
            RateLimitConfig(enabled=True, embeddings_limit="1/hour"),
            "/v1/embeddings",
            {"model": MODEL, "input": "x"},
            [400, 429, 429, 429],
        ),
        (RateLimitConfig(enabled=False, default_limit="1/hour"), "/v1/models", None, [200] * 4),
    ],
)
@pytest.mark.live_keys(
    "security.rate_limit.enabled",
    "security.rate_limit.default_limit",
    "security.rate_limit.chat_completions_limit",
    "security.rate_limit.embeddings_limit",
)
async def test_every_limit_changes_with_a_reload(
    changed: RateLimitConfig, path: str, body: object, expected: list[int]
) -> None:
    """The next request is held to the new limit; each route to the one that is for it."""
    service = service_with()
    app = create_app(service)
    assert await statuses(app, 3) == [200] * 3
    service.config = Config(security=SecurityConfig(rate_limit=changed))

    assert await statuses(app, 4, path, body=body) == expected


async def test_chats_on_a_socket_count_one_by_one() -> None:
    """A socket that stays open is no way around a limit; the chat over it is refused, the socket goes on."""
    limit = RateLimitConfig(enabled=True, chat_completions_limit="1/hour")
    socket = Socket(service_with(rate_limit=limit))
    await socket.message()
    endings = []
    for number in range(3):
        socket.say({**CHAT, "stream": False, "request_id": str(number)})
        endings.append((await socket.frame())["type"])
    await socket.close()

    assert endings == ["chat.done", "chat.error", "chat.error"]


def test_a_window_moves() -> None:
    """Each request is free again when its time is over, and the wait that is told is the true one."""
    now = 0.0
    windows = MovingWindows(now=lambda: now)
    limit = [RateLimit(2, 10)]
    taken = []
    for moment in (0.0, 4.0, 9.5, 10.5, 13.0, 14.5):
        now = moment
        within, (count,) = windows.take("a", limit)
        taken.append((within, count.remaining, count.next_free_seconds))

    assert taken == [(True, 1, 10), (True, 0, 6), (False, 0, 1), (True, 0, 4), (False, 0, 1), (True, 0, 6)]


def test_a_refused_request_does_not_count() -> None:
    """Of several limits, the one that would let it pass is not used up either."""
    windows = MovingWindows(now=lambda: 0.0)
    limits = [RateLimit(1, 10), RateLimit(5, 100)]
    windows.take("a", limits)
    within, (_, slow) = windows.take("a", limits)

    assert (within, slow.remaining) == (False, 4)


def test_what_is_remembered_is_bounded() -> None:
    """Neither many addresses nor large limits make it grow; those that asked the longest time ago are forgotten first."""
    windows = MovingWindows(windows_max=3, hits_max=5, now=lambda: 0.0)
    one, many = [RateLimit(1, 60)], [RateLimit(100, 60)]
    for whose in "abcd":
        windows.take(whose, one)
    assert [windows.take(whose, one)[0] for whose in "dcb"] == [False] * 3
    assert windows.take("a", one)[0]
    for _ in range(9):
        windows.take("e", many)

    assert windows.hits <= 9
    assert windows.take("c", one)[0]
