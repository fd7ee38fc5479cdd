"""Pages of other sites: which may ask, what browsers are told, and that no key is needed to be told."""

import httpx
import pytest

from lmx_supervisor.config.schema import Config, SecurityConfig, ServerConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.service import FedService
from tests.gateway.test_chat_socket import Socket

SITE = "https://ui.example"
OTHER = "https://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
EVERYWHERE = ServerConfig(host="0.0.0.0")


def configured(*origins: str, server: ServerConfig | None = None, **security: object) -> Config:
    """A configuration with these sites."""
    fields = {"inference_api_key": "k", "admin_key": "a", **security}
    return Config(
        server=server or ServerConfig(),
        security=SecurityConfig(cors_allowed_origins=origins, **fields),  # type: ignore[arg-type]  # the test's own fields
    )


async def ask(
    config: Config, origin: str, method: str = "GET", path: str = "/v1/models", host: str = "127.0.0.1", **headers: str
) -> httpx.Response:
    """One request of a page; `host` is what the service is called."""
    app = create_app(FedService(config))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
        return await client.request(method, path, headers={"Origin": origin, **headers})


@pytest.mark.parametrize(
    ("config", "host", "origin", "told"),
    [
        (configured(SITE), "127.0.0.1", SITE, SITE),
        (configured(SITE), "127.0.0.1", "http://localhost:3000", "http://localhost:3000"),
        (configured(), "127.0.0.1", "http://localhost:3000", "http://localhost:3000"),
        (configured("*"), "127.0.0.1", OTHER, "*"),
        (configured(SITE, server=EVERYWHERE), "192.0.2.7", SITE, SITE),
        (configured(SITE, server=EVERYWHERE), "192.0.2.7", OTHER, None),
        (configured(server=EVERYWHERE), "192.0.2.7", OTHER, "*"),
        (configured(server=EVERYWHERE, profile="cloud"), "192.0.2.7", OTHER, None),
    ],
)
async def test_answers_tell_the_browser_whose_page_may_read_them(
    config: Config, host: str, origin: str, told: str | None
) -> None:
    """With the key and without one: an error is for the page to read as well, and its request id too."""
    for headers, status in (({"Authorization": "Bearer k"}, 200), ({}, 401)):
        response = await ask(config, origin, host=host, **headers)

        assert (response.status_code, response.headers.get("access-control-allow-origin")) == (status, told)
        if told is not None:
            assert "X-Request-ID" in response.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/admin/models/load", "/v1/messages"])
async def test_the_question_before_a_request_needs_no_key(path: str) -> None:
    """A browser asks without one; the answer has a request id like every other."""
    response = await ask(configured(SITE), SITE, "OPTIONS", path, **PREFLIGHT)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == SITE
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(("server", "host"), [(ServerConfig(), "127.0.0.1"), (EVERYWHERE, "192.0.2.7")])
async def test_other_pages_are_told_no(server: ServerConfig, host: str) -> None:
    """403 in the envelope, and nothing that a browser would take for a yes."""
    response = await ask(configured(SITE, server=server), OTHER, "OPTIONS", "/v1/chat/completions", host=host, **PREFLIGHT)

    assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in response.headers


async def test_an_allowed_page_does_not_allow_a_foreign_name() -> None:
    """A name that was pointed here by somebody else (DNS rebinding) stays refused on the loopback, whatever sites may ask."""
    response = await ask(configured("*"), SITE, host="127.0.0.1", Host="evil.example")

    assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_host")


async def test_requests_without_a_page_are_told_nothing() -> None:
    """Programs send no `Origin`."""
    app = create_app(FedService(configured("*")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        response = await client.get("/healthz")

    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_options_without_a_question_is_a_method_like_others() -> None:
    """Only a browser's question is answered; the route has no OPTIONS."""
    response = await ask(configured(SITE), SITE, "OPTIONS", Authorization="Bearer k")

    assert response.status_code == 405


@pytest.mark.live_keys("security.cors_allowed_origins")
async def test_sites_change_with_a_reload() -> None:
    """The next request is told by the new list."""
    service = FedService(configured())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://127.0.0.1") as client:
        before = await client.get("/healthz", headers={"Origin": SITE})
        service.config = configured(SITE)
        after = await client.get("/healthz", headers={"Origin": SITE})

    assert (before.status_code, after.headers["access-control-allow-origin"]) == (403, SITE)


@pytest.mark.live_keys("security.profile")
async def test_a_profile_changes_with_a_reload() -> None:
    """Where the lan profile lets all sites read answers, the cloud profile names none from the next request on."""
    service = FedService(configured(server=EVERYWHERE))
    told = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://192.0.2.7") as client:
        for profile in ("lan", "cloud"):
            service.config = configured(server=EVERYWHERE, profile=profile)
            answer = await client.get("/healthz", headers={"Origin": OTHER})
            told.append(answer.headers.get("access-control-allow-origin"))

    assert told == ["*", None]


@pytest.mark.parametrize(
    ("origin", "opens"), [(None, True), (SITE, True), ("http://127.0.0.1", True), (OTHER, False), ("null", False)]
)
async def test_a_socket_is_only_for_pages_of_named_sites(origin: str | None, opens: bool) -> None:
    """Browsers ask nobody before they open one, so the handshake is refused here, wherever the service listens."""
    headers = {"authorization": "Bearer k", "host": "127.0.0.1", **({"origin": origin} if origin else {})}
    for server in (ServerConfig(), EVERYWHERE):
        socket = Socket(FedService(configured(SITE, server=server)), headers)
        assert (await socket.message())["type"] == ("websocket.accept" if opens else "websocket.close")
        await socket.close()
