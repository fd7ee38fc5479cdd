"""POST /v1/rerank in the form that Jina's and Cohere's clients share: documents sorted by how well they answer a query.

`scored_by` says what the scores are: the probability that a cross-encoder gives each pair, or the cosine between the vectors
that an embedding model gives to query and document. Both grow with relevance; they are not comparable with each other.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_protocol import limits
from lmx_protocol.messages import RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import ModelTask, RankMethod
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.body import decode_field, read_json
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.openai_fields import ModelId
from lmx_supervisor.gateway.dialects.openai_inbound import Inbound, required
from lmx_supervisor.gateway.model_choice import ModelChoice
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from lmx_supervisor.gateway.responses import to_json
from lmx_supervisor.gateway.result_response import ResultResponse

Text = Annotated[str, Meta(min_length=1)]


class Document(Inbound, frozen=True, kw_only=True):
    """A document with fields; the others are the client's own."""

    text: Text


class RerankBody(Inbound, frozen=True, kw_only=True):
    """The whole request."""

    model: ModelId | None = None
    query: str
    documents: Raw
    top_n: Annotated[int, Meta(ge=1)] | None = None
    """More than there are means all."""
    return_documents: bool | None = None
    user: Annotated[str, Meta(max_length=limits.USER_CHARACTERS_MAX)] | None = None


_Documents = Annotated[list[Text | Document], Meta(max_length=limits.RANK_DOCUMENTS_MAX)]
_rerank_decoder = msgspec.json.Decoder(RerankBody)
_documents_decoder: msgspec.json.Decoder[list[str | Document] | None] = msgspec.json.Decoder(_Documents | None)


def to_rank_request(body: RerankBody, request_id: str, model_id: str) -> RankRequest:
    """The request that `body` asks for. Raises `Problem` (400, with `param`)."""
    if not body.query.strip():
        raise Problem(EdgeCode.INVALID_INPUT, "query: it is empty; send what the documents are to answer.", param="query")
    documents = decode_field("documents", body.documents, _documents_decoder, bytes_max=limits.TEXTS_BYTES_MAX)
    if documents is None:
        raise required("documents")
    if not documents:
        raise Problem(EdgeCode.INVALID_INPUT, "documents: there is nothing to rank; send at least one.", param="documents")
    texts = tuple(document if isinstance(document, str) else document.text for document in documents)
    return RankRequest(request_id=request_id, model_id=model_id, query=body.query, documents=texts)


class Ranking:
    """A `Collector` of scores. `core.results` has seen to it that they fit the request."""

    def __init__(self, request: RankRequest, *, top_n: int | None, return_documents: bool) -> None:
        self._request = request
        self._top_n = top_n
        self._return_documents = return_documents
        self._method = RankMethod.COSINE
        self._scores: list[float | None] = [None] * len(request.documents)

    def add(self, result: Vectors | Scores) -> None:
        """Take in some scores."""
        assert isinstance(result, Scores)
        self._method = result.method
        self._scores[result.first_index : result.first_index + len(result.values)] = result.values

    @property
    def missing(self) -> int:
        """How many scores have not come."""
        return self._scores.count(None)

    def body(self, usage: Usage) -> Iterator[bytes]:
        """The best first; equal ones in the order they were sent."""
        scores = [score for score in self._scores if score is not None]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self._top_n]
        head = {"id": self._request.request_id, "object": "list", "model": self._request.model_id, "scored_by": self._method}
        yield to_json(head)[:-1] + b',"results":['
        for place, index in enumerate(best):
            yield (b"," if place else b"") + to_json(self._result(index, scores))
        tokens = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        yield b'],"usage":' + to_json(tokens) + b"}"

    def _result(self, index: int, scores: Sequence[float]) -> dict[str, Any]:
        result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        return {**result, "document": {"text": self._request.documents[index]}} if self._return_documents else result


class Rerank:
    """The endpoint."""

    def __init__(self, service: Service, open_answers: OpenAnswers) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers

    async def create(self, request: Request) -> ASGIApp:
        """Validate, then hand over. Raises `Problem`."""
        body = await read_json(request, _rerank_decoder, self._service.config.server)
        chosen = await self._models.choose(body.model, caller_of(request.scope), ModelTask.RANK)
        rank = to_rank_request(body, f"rerank-{secrets.token_hex(12)}", chosen.model_id)
        ranking = Ranking(rank, top_n=body.top_n, return_documents=body.return_documents is not False)
        return ResultResponse(self._service, rank, ranking, facts=chosen.facts, open_answers=self._open_answers)
