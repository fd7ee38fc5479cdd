"""`lmx embed` against a server that answers as told."""

import json
from collections.abc import Iterator
from typing import Any

from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import Reply, StandIn

PATH = "/v1/embeddings"


def vectors(*given: list[float]) -> dict[str, Any]:
    """What the server answers."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(given)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def test_each_text_gets_a_line(lmx: Lmx, server: StandIn) -> None:
    """All texts go in one request, and every vector is a JSON array on a line of its own."""
    server.answer(PATH, vectors([0.5, -1.0], [0.25, 2.0]))
    result = lmx("embed", "m", "a cat", "a dog", "--dimensions", "2", "--url", server.url)

    assert (result.status, result.out) == (0, "[0.5,-1.0]\n[0.25,2.0]\n")
    assert server.bodies(PATH) == [{"model": "m", "input": ["a cat", "a dog"], "dimensions": 2}]


def test_json_is_one_document(lmx: Lmx, server: StandIn) -> None:
    """The vectors and what they cost."""
    server.answer(PATH, vectors([0.5]))
    result = lmx("embed", "m", "a", "--json", "--url", server.url)

    assert json.loads(result.out) == {"model": "m", "vectors": [[0.5]], "prompt_tokens": 5}
    assert "dimensions" not in server.bodies(PATH)[0]


def test_texts_come_from_stdin_line_by_line(lmx: Lmx, server: StandIn) -> None:
    """Empty lines are no texts, and no text at all is a mistake."""
    server.answer(PATH, vectors([0.5], [0.5]))
    assert lmx("embed", "m", "-", "--url", server.url, stdin="one\n\ntwo\n").status == 0

    assert server.bodies(PATH)[0]["input"] == ["one", "two"]
    assert lmx("embed", "m", "-", "--url", server.url, stdin="\n").status == 2


def test_a_model_that_is_not_served_is_loaded_first(lmx: Lmx, server: StandIn) -> None:
    """As for `run`."""
    missing = {"error": {"message": "not loaded", "type": "x", "param": "model", "code": "model_not_found"}}
    replies: Iterator[Reply] = iter([(404, missing), (200, vectors([1.0]))])
    server.routes[PATH] = lambda _: next(replies)
    server.answer("/admin/stack", {"roles": {}})
    server.answer("/admin/models/load", {"success": True, "model_id": "m"})
    result = lmx("embed", "m", "a", "--url", server.url)

    assert (result.status, result.out) == (0, "[1.0]\n")


def test_what_the_server_refuses_is_told(lmx: Lmx, server: StandIn) -> None:
    """One line with the server's message and code; what is no list of vectors is no answer."""
    server.refuse(PATH, 400, "not_supported", "model: 'm' gives no embeddings.")
    refused = lmx("embed", "m", "a", "--url", server.url)
    server.answer(PATH, {"object": "list"})
    strange = lmx("embed", "m", "a", "--url", server.url)

    assert (refused.status, refused.err) == (1, "error: model: 'm' gives no embeddings. (not_supported)\n")
    assert strange.status == 1 and "is this an LMX server?" in strange.err
