"""POST /v1/rerank: sorting, cutting, documents in every form, and what is refused."""

from typing import Any

import httpx
import pytest

from lmx_protocol import limits
from lmx_protocol.messages import Finished, RankRequest, Scores, Usage
from lmx_protocol.states import FinishReason, ModelTask, RankMethod
from tests.gateway.service import MODEL, FedService, feeding
from tests.gateway.test_embeddings import give_tasks

URL = "/v1/rerank"
BODY: dict[str, Any] = {"model": MODEL, "query": "q", "documents": ["a", "b", "c"]}
FINISHED = Finished(request_id="", reason=FinishReason.STOP, usage=Usage(prompt_tokens=7))


def scores(first_index: int, *values: float, method: RankMethod = RankMethod.CROSS_ENCODER) -> Scores:
    """An event with these scores."""
    return Scores(request_id="", method=method, first_index=first_index, values=values)


@pytest.fixture(autouse=True)
def ranks(service: FedService) -> None:
    """The model ranks; the second document is best, the others are equal."""
    give_tasks(service, ModelTask.RANK)
    service.on_submit = feeding([scores(0, 0.25, 0.75), scores(2, 0.25), FINISHED])


async def test_documents_come_back_sorted_with_their_scores(client: httpx.AsyncClient) -> None:
    """The best first, equal ones in the order they were sent; what scored them is told."""
    answer = (await client.post(URL, json=BODY)).json()

    assert [
        {"index": index, "relevance_score": score, "document": {"text": text}}
        for index, score, text in ((1, 0.75, "b"), (0, 0.25, "a"), (2, 0.25, "c"))
    ] == answer["results"]
    assert (MODEL, "cross_encoder") == (answer["model"], answer["scored_by"])
    assert {"prompt_tokens": 7, "total_tokens": 7} == answer["usage"]
    assert answer["id"].startswith("rerank-")


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
async def test_top_n_cuts_the_list_and_is_clamped(client: httpx.AsyncClient, top_n: int, count: int) -> None:
    """More than there are means all of them."""
    answer = (await client.post(URL, json={**BODY, "top_n": top_n})).json()

    assert (count, 1) == (len(answer["results"]), answer["results"][0]["index"])


async def test_documents_with_fields_and_without_documents_in_the_answer(
    client: httpx.AsyncClient, service: FedService
) -> None:
    """A document may be an object with a `text`; they are left out when the client wants only the order."""
    documents = ["a", {"text": "b", "title": "t", "tags": [1]}, {"text": "c"}]
    answer = (await client.post(URL, json={**BODY, "documents": documents, "return_documents": False})).json()

    request = service.answers[-1].request
    assert isinstance(request, RankRequest)
    assert ("q", ("a", "b", "c")) == (request.query, request.documents)
    assert all({"index", "relevance_score"} == set(result) for result in answer["results"])


async def test_cosines_are_called_so(client: httpx.AsyncClient, service: FedService) -> None:
    """Scores of an embedding model are told from those of a cross-encoder."""
    give_tasks(service, ModelTask.EMBED, ModelTask.RANK)
    service.on_submit = feeding([scores(0, -0.5, 0.1, 0.9, method=RankMethod.COSINE), FINISHED])
    answer = (await client.post(URL, json=BODY)).json()

    assert ("cosine", [2, 1, 0]) == (answer["scored_by"], [result["index"] for result in answer["results"]])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": "  "}, "query"),
        ({"query": ["a"]}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": None}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents.1"),
        ({"documents": ["a", 1]}, "documents.1"),
        ({"documents": ["a", {"title": "t"}]}, "documents.1.text"),
        ({"documents": ["a"] * (limits.RANK_DOCUMENTS_MAX + 1)}, "documents"),
        ({"documents": ["x" * (limits.TEXTS_BYTES_MAX + 1)]}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, service: FedService, fields: dict[str, Any], param: str
) -> None:
    """In the contract's envelope, before anything is queued."""
    response = await client.post(URL, json={**BODY, **fields})

    assert (400, param) == (response.status_code, response.json()["error"]["param"])
    assert not service.answers


async def test_a_model_that_only_generates_is_refused(client: httpx.AsyncClient, service: FedService) -> None:
    """400 `not_supported` about the model."""
    give_tasks(service, ModelTask.GENERATE)
    error = (await client.post(URL, json=BODY)).json()["error"]

    assert ("not_supported", "model") == (error["code"], error["param"])


@pytest.mark.parametrize(
    ("tasks", "owner"),
    [
        ((ModelTask.GENERATE,), "local"),
        ((ModelTask.GENERATE, ModelTask.EMBED, ModelTask.RANK), "local"),
        ((ModelTask.EMBED, ModelTask.RANK), "local-embedding"),
        ((ModelTask.RANK,), "local-embedding"),
    ],
)
async def test_the_list_of_models_tells_what_does_not_generate(
    client: httpx.AsyncClient, service: FedService, tasks: tuple[ModelTask, ...], owner: str
) -> None:
    """A client that offers models to chat with can leave the others out."""
    give_tasks(service, *tasks)

    assert [owner] == [model["owned_by"] for model in (await client.get("/v1/models")).json()["data"]]
