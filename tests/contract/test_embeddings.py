"""Embeddings and rankings through real processes, asked by the official `openai` SDK and plain HTTP."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.contract.conftest import KEY
from tests.support.live import LiveServer, wait_until
from tests.support.minilm import CLASSIFIER, CONTEXT_TOKENS, DIMENSIONS, MiniLm, minilm, minilm_gguf, reranker_gguf  # noqa: F401 - fixtures
from tests.support.mlx_models import write_tiny_mlx_model

CAT, FELINE, MARKET = "The cat sits on the mat.", "A feline rests on a rug.", "Stock prices fell sharply on Monday."
READER = """
tasks: [embed]
faults:
  - {when: token, number: 3, contains: "once", do: kill, lives: 1}
  - {when: token, number: 2, contains: "always", do: kill}
"""
SLOW = "{tasks: [embed], reading: {input_seconds: 0.05}}"


def sdk(service: LiveServer, *, is_strict: bool) -> openai.OpenAI:
    """The SDK, which does not try again. Strict, it takes floats only: it checks the packed form before it unpacks it."""
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, _strict_response_validation=is_strict)


@pytest.fixture
def client(service: LiveServer) -> Iterator[openai.OpenAI]:
    """The SDK as its users have it: it asks for base64."""
    with sdk(service, is_strict=False) as connected:
        yield connected


@pytest.fixture
def strict(service: LiveServer) -> Iterator[openai.OpenAI]:
    """The SDK that validates every response."""
    with sdk(service, is_strict=True) as connected:
        yield connected


@pytest.fixture
def http(service: LiveServer) -> Iterator[httpx.Client]:
    """Plain HTTP with the key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=120.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def served_minilm(service: LiveServer, minilm_gguf: Path) -> Iterator[str]:  # noqa: F811
    """The embedding model's id."""
    service.load("minilm", path=str(minilm_gguf))
    yield "minilm"
    service.http.post("/admin/models/unload", json={"model_id": "minilm"})


def load_script(service: LiveServer, model_id: str, text: str, **order: Any) -> str:
    """A scripted model, loaded."""
    service.load(service.script(model_id, text), **order)
    return model_id


@pytest.mark.real
def test_the_sdk_gets_the_references_vectors(
    client: openai.OpenAI,
    strict: openai.OpenAI,
    served_minilm: str,
    minilm: MiniLm,  # noqa: F811
) -> None:
    """As base64 (what the SDK asks for by default), as floats, from tokens: all within 0.999 of an independent computation.

    Sentences that mean the same are closer than others, the tokens are counted, and the model is listed as one that embeds.
    """
    packed = client.embeddings.create(model=served_minilm, input=[CAT, FELINE, MARKET])
    floats = strict.embeddings.create(model=served_minilm, input=CAT, encoding_format="float")
    tokens = client.embeddings.create(model=served_minilm, input=[minilm.tokens(CAT), minilm.tokens(MARKET)])
    cat, feline, market = (np.array(entry.embedding) for entry in packed.data)

    expected = {text: minilm.embed(text) for text in (CAT, FELINE, MARKET)}
    assert min(cat @ expected[CAT], feline @ expected[FELINE], market @ expected[MARKET]) >= 0.999
    assert min(np.array(tokens.data[0].embedding) @ cat, np.array(tokens.data[1].embedding) @ market) >= 0.9999
    assert floats.data[0].embedding == pytest.approx(list(cat), abs=1e-4)
    assert cat @ feline > cat @ market + 0.3
    assert packed.usage.prompt_tokens == sum(len(minilm.tokens(text)) for text in (CAT, FELINE, MARKET))
    assert [len(cat), packed.model] == [DIMENSIONS, served_minilm]
    assert {model.id: model.owned_by for model in client.models.list()}[served_minilm] == "local-embedding"


@pytest.mark.real
def test_what_an_embedding_model_cannot_do_is_a_bad_request(client: openai.OpenAI, served_minilm: str) -> None:
    """The SDK raises its own exceptions, with code and field."""
    with pytest.raises(openai.BadRequestError) as long:
        client.embeddings.create(model=served_minilm, input=["ok", "word " * CONTEXT_TOKENS])
    with pytest.raises(openai.BadRequestError) as wide:
        client.embeddings.create(model=served_minilm, input="a", dimensions=DIMENSIONS + 1)
    with pytest.raises(openai.BadRequestError) as strange:
        client.embeddings.create(model=served_minilm, input=[[10**9]])
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model=served_minilm, messages=[{"role": "user", "content": "hi"}])

    assert [(error.value.code, error.value.param) for error in (long, wide, strange, chat)] == [
        ("context_length_exceeded", "input"),
        ("invalid_value", "dimensions"),
        ("invalid_value", "input"),
        ("not_supported", "model"),
    ]


@pytest.mark.real
def test_rankings_say_what_scored_them(
    service: LiveServer,
    http: httpx.Client,
    served_minilm: str,
    reranker_gguf: Path,  # noqa: F811
    minilm: MiniLm,  # noqa: F811
) -> None:
    """Cosines of an embedding model, probabilities of a cross-encoder: each agrees with the reference, the best first."""
    service.load("reranker", path=str(reranker_gguf))
    body = {"query": FELINE, "documents": [MARKET, {"text": CAT}], "top_n": 5}
    by_cosine = http.post("/v1/rerank", json={"model": served_minilm, **body}).json()
    by_pair = http.post("/v1/rerank", json={"model": "reranker", **body}).json()
    embeds = http.post("/v1/embeddings", json={"model": "reranker", "input": "a"})
    service.http.post("/admin/models/unload", json={"model_id": "reranker"})

    assert [by_cosine["scored_by"], by_pair["scored_by"]] == ["cosine", "cross_encoder"]
    assert [result["document"]["text"] for result in by_cosine["results"]] == [CAT, MARKET]
    cosines = {text: float(minilm.embed(FELINE) @ minilm.embed(text)) for text in (CAT, MARKET)}
    pairs = {text: minilm.rank(FELINE, text, CLASSIFIER) for text in (CAT, MARKET)}
    for answer, expected in ((by_cosine, cosines), (by_pair, pairs)):
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([expected[result["document"]["text"]] for result in answer["results"]], abs=5e-3)
    assert (embeds.status_code, embeds.json()["error"]["param"]) == (400, "model")


@pytest.mark.real
def test_an_mlx_decoder_embeds(service: LiveServer, client: openai.OpenAI, tmp_path: Path) -> None:
    """A model that generates gives vectors too: equal texts equal ones, of length one; it stays listed as one to chat with."""
    service.load("tiny-mlx", path=str(write_tiny_mlx_model(tmp_path / "tiny-mlx")))
    answer = client.embeddings.create(model="tiny-mlx", input=["the fox", "the lazy dog", "the fox"])
    owner = client.models.retrieve("tiny-mlx").owned_by
    service.http.post("/admin/models/unload", json={"model_id": "tiny-mlx"})
    first, second, third = (np.array(entry.embedding) for entry in answer.data)

    assert owner == "local"
    assert first == pytest.approx(third, abs=1e-4)
    assert first @ second < 0.9999
    assert float(first @ first) == pytest.approx(1.0, abs=1e-3)


def test_many_inputs_come_back_all_and_in_order(service: LiveServer, client: openai.OpenAI) -> None:
    """Far more vectors than a worker may send unasked: credit flows while they are collected."""
    model = load_script(service, "reader-many", "tasks: [embed]")
    inputs = [f"text {number % 7}" for number in range(300)]
    answer = client.embeddings.create(model=model, input=inputs)

    assert [entry.index for entry in answer.data] == list(range(300))
    assert len({tuple(entry.embedding) for entry in answer.data}) == 7
    assert answer.data[0].embedding == answer.data[294].embedding
    assert answer.usage.prompt_tokens == 600


def test_a_crash_amid_an_embedding_costs_time_only(service: LiveServer, client: openai.OpenAI) -> None:
    """The worker is killed before the third vector; the request is replayed, and its answer is whole."""
    model = load_script(service, "reader-once", READER)
    inputs = ["once upon", "a", "time", "there"]
    answer = client.embeddings.create(model=model, input=inputs)

    assert [entry.index for entry in answer.data] == [0, 1, 2, 3]
    again = client.embeddings.create(model=model, input=inputs)
    assert [entry.embedding for entry in again.data] == [entry.embedding for entry in answer.data]
    assert service.worker(model)["restarts"] == 1


def test_an_embedding_that_always_crashes_is_refused(service: LiveServer, client: openai.OpenAI) -> None:
    """A status, never half a list: lost after its replay, and then known for what it is."""
    model = load_script(service, "reader-always", READER)
    with pytest.raises(openai.InternalServerError) as lost:
        client.embeddings.create(model=model, input=["always", "b"])
    service.wait_for_state(model, "ready", seconds=60)
    with pytest.raises(openai.UnprocessableEntityError) as poison:
        client.embeddings.create(model=model, input=["always", "b"])

    assert [lost.value.code, poison.value.code] == ["worker_lost", "request_crashes_model"]
    assert len(client.embeddings.create(model=model, input=["fine", "b"]).data) == 2


def test_an_embedding_ends_when_its_client_leaves(service: LiveServer, http: httpx.Client) -> None:
    """By its id or by hanging up: the worker's only slot is free long before all inputs would have been computed."""
    model = load_script(service, "reader-slow", SLOW, slots=1)
    body = {"model": model, "input": ["word"] * 2000}
    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(http.post("/v1/embeddings", json=body, headers={"X-Request-ID": "long-one"}))
    )
    waiting.start()
    wait_until(lambda: service.worker(model)["requests_active"] == 1, 30, "the request to run")
    cancel = http.post("/v1/requests/long-one/cancel")
    waiting.join()
    assert (cancel.status_code, answers[0].status_code) == (200, 499)
    assert answers[0].json()["error"]["code"] == "request_cancelled"

    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/embeddings", json=body, timeout=httpx.Timeout(30.0, read=0.5))
    short = http.post("/v1/embeddings", json={"model": model, "input": "word"})
    assert (short.status_code, len(short.json()["data"])) == (200, 1)


def test_a_model_that_only_generates_gives_no_vectors(service: LiveServer, client: openai.OpenAI, http: httpx.Client) -> None:
    """400 `not_supported` about the model, from either route."""
    model = load_script(service, "talker", "{}")
    with pytest.raises(openai.BadRequestError) as embedding:
        client.embeddings.create(model=model, input="a")
    ranking = http.post("/v1/rerank", json={"model": model, "query": "q", "documents": ["d"]}).json()["error"]

    assert (embedding.value.code, embedding.value.param) == ("not_supported", "model")
    assert (ranking["code"], ranking["param"]) == ("not_supported", "model")
