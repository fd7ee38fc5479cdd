"""GET /admin/logs and below: where logs are, which there are, and their text."""

import httpx
import msgspec
import pytest

from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.core.records import JournalKind
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedService

KINDS = [(JournalKind.SESSIONS, "/admin/logs/sessions"), (JournalKind.UPDATES, "/admin/logs/updates")]


@pytest.mark.parametrize(("kind", "path"), KINDS)
async def test_a_journal_is_listed_and_read(
    service: FedService, client: httpx.AsyncClient, kind: JournalKind, path: str
) -> None:
    """Names, sizes and times; the text as it is, as plain text that no browser takes for anything else."""
    service.records.journals[kind] = {"200_a.md": [b"# On", "e — €".encode()]}
    listed = (await client.get(path)).json()
    text = await client.get(f"{path}/200_a.md")

    assert [("200_a.md", 13)] == [(each["filename"], each["size_bytes"]) for each in listed]
    assert listed[0]["created_at"].startswith("2026-01-02T")
    assert (200, "# One — €") == (text.status_code, text.text)
    assert ("text/plain; charset=utf-8", "nosniff") == (text.headers["content-type"], text.headers["x-content-type-options"])


@pytest.mark.parametrize("path", [path for _, path in KINDS])
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("none.md", 404),
        ("..%2f..%2fruntime-state.json", 400),
        ("%2e%2e", 400),
        (".hidden.md", 400),
        ("a%2Fb.md", 400),
        ("a%5Cb.md", 400),
        ("%00.md", 404),
    ],
)
async def test_other_names_are_refused(client: httpx.AsyncClient, path: str, name: str, status: int) -> None:
    """What leads elsewhere is a bad request, what is not there is not found, both in our envelope with the parameter."""
    answer = await client.get(httpx.URL(f"http://lmx{path}/").copy_with(raw_path=f"{path}/{name}".encode()))

    assert (status, "filename") == (answer.status_code, answer.json()["error"]["param"])


async def test_the_places_are_told(client: httpx.AsyncClient) -> None:
    """Where an operator has to look, and whether journals are written at all."""
    said = (await client.get("/admin/logs")).json()

    assert ("a terminal", None, True, "/s") == tuple(
        said[name] for name in ("log_output", "log_file", "journaling", "session_logs_dir")
    )


async def test_a_reader_that_takes_nothing_is_let_go(service: FedService) -> None:
    """A client whose socket stays full costs its answer, not a place for ever."""
    service.config = msgspec.structs.replace(Config(), server=ServerConfig(slow_client_seconds=0.05))
    service.records.journals[JournalKind.UPDATES] = {"a.md": [b"x"] * 3}
    exchange = Exchange(create_app(service), "GET", "/admin/logs/updates/a.md")
    exchange.writable.clear()

    assert [] == await exchange.done()
