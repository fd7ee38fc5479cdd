"""From one submitted request whose answer is no text to its HTTP response: vectors or scores, sent when all of them are there.

The body is written in blocks with a turn for everybody else between them: a few megabytes of numbers, rendered at once, would
hold up every stream.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Protocol

from starlette.types import Receive, Scope, Send

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Cancelled, EmbedRequest, Failed, Finished, ModelFacts, RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import ModelTask
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import AnswerReader, OpenAnswers
from lmx_supervisor.gateway.answering import SlowClientError
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.disconnect import watched
from lmx_supervisor.gateway.edge import note, request_id_of
from lmx_supervisor.gateway.origin import origin_of
from lmx_supervisor.gateway.problem import Problem

logger = logging.getLogger("lmx.http")

_BLOCK_BYTES = 64 * 1024
_ADVICE = {
    ModelTask.EMBED: "gives no embeddings; load an embedding model",
    ModelTask.RANK: "cannot rank; load a reranker or an embedding model",
}


class Collector(Protocol):
    """The results of one request, in one dialect. After a replay some come twice; the later ones count."""

    def add(self, result: Vectors | Scores) -> None:
        """Take in what arrived."""

    @property
    def missing(self) -> int:
        """How many results have not arrived."""

    def body(self, usage: Usage) -> Iterable[bytes]:
        """The response's body, in pieces."""


class ResultResponse:
    """An ASGI application that submits a request and answers with its results."""

    def __init__(
        self,
        service: Service,
        request: EmbedRequest | RankRequest,
        results: Collector,
        *,
        facts: ModelFacts | None,
        open_answers: OpenAnswers,
    ) -> None:
        """`facts` of the model, where they are known."""
        self._service = service
        self._facts = facts
        self._request = request
        self._results = results
        self._open_answers = open_answers
        self._server = service.config.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises `Problem` and `ClientGoneError` while nothing was sent yet."""
        request = self._request
        note(scope, model=request.model_id, generation_id=request.request_id, stream=False)
        caller = caller_of(scope)
        caller.refuse_other_models(request.model_id)
        self._refuse_models_that_cannot()
        until_gone = await watched(receive)
        answer = self._service.submit(request, origin_of(scope, stream=False))
        reader = AnswerReader(
            [answer],
            self._open_answers,
            until_gone=until_gone,
            ids=(request_id_of(scope),),
            owner=caller.owner,
        )
        try:
            finished = await self._collect(reader)
            if self._results.missing:
                raise Problem(ErrorCode.GENERATION_ERROR, "The model left out a part of its answer; send the request again.")
            await self._send(self._results.body(finished.usage), send)
        except SlowClientError:
            note(scope, outcome="slow_client")
            logger.warning("slow_client", extra={"generation_id": request.request_id})
        finally:
            reader.close()

    def _refuse_models_that_cannot(self) -> None:
        """An early word about a model that cannot do this; one that is not known yet refuses for itself."""
        task = ModelTask.EMBED if isinstance(self._request, EmbedRequest) else ModelTask.RANK
        if self._facts is not None and task not in self._facts.tasks:
            message = f"model: '{self._request.model_id}' {_ADVICE[task]}."
            raise Problem(ErrorCode.NOT_SUPPORTED, message, param="model")

    async def _collect(self, reader: AnswerReader) -> Finished:
        while True:
            came = await reader.next_event(wait_seconds=None)
            assert came is not None, "it was to wait for as long as it takes"
            match came[1]:
                case Vectors() | Scores() as result:
                    self._results.add(result)
                case Finished() as finished:
                    return finished
                case Failed() as failed:
                    raise Problem.of(failed)
                case Cancelled():
                    raise Problem(ErrorCode.GENERATION_ERROR, "The server cancelled this request; send it again.")

    async def _send(self, body: Iterable[bytes], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        for block in _blocks(body):
            await self._write(send, block, more=True)
            await asyncio.sleep(0)
        await self._write(send, b"", more=False)

    async def _write(self, send: Send, block: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._server.slow_client_seconds):
                await send({"type": "http.response.body", "body": block, "more_body": more})
        except TimeoutError:
            raise SlowClientError from None


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)
