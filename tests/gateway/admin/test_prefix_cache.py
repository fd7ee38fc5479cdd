"""GET and DELETE /admin/prefix-cache."""

import httpx
import pytest

from tests.gateway.service import FedService

URL = "/admin/prefix-cache"


async def test_it_says_how_much_there_is_and_may_be(client: httpx.AsyncClient) -> None:
    """Bytes and files, as the service counts them."""
    response = await client.get(URL)

    assert {"enabled": True, "files": 2, "bytes": 1000, "bytes_max": 2000} == response.json()


@pytest.mark.parametrize(("path", "model_id"), [("", None), ("/org/model", "org/model"), ("/org%2Fmodel", "org/model")])
async def test_all_or_one_models_prompts_are_deleted(
    client: httpx.AsyncClient, service: FedService, path: str, model_id: str | None
) -> None:
    """The id is the rest of the path, slashes and all; the answer says how much is free again."""
    response = await client.delete(URL + path)

    assert {"success": True, "freed_bytes": 1000} == response.json()
    assert [model_id] == service.prefixes.cleared


async def test_what_cannot_be_an_id_deletes_nothing(client: httpx.AsyncClient, service: FedService) -> None:
    """A path that leads elsewhere is refused by name."""
    response = await client.delete(f"{URL}/..%2Fx")

    assert (400, "model_id") == (response.status_code, response.json()["error"]["param"])
    assert [] == service.prefixes.cleared
