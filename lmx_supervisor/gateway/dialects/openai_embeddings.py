"""POST /v1/embeddings: the endpoint, and vectors in OpenAI's form."""

import binascii
import secrets
import struct
from collections.abc import Iterator

from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_protocol.messages import Scores, Usage, Vectors
from lmx_protocol.states import ModelTask
from lmx_supervisor.core.results import FLOAT_BYTES
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.openai_embeddings_request import embedding_decoder, to_embed_request
from lmx_supervisor.gateway.model_choice import ModelChoice
from lmx_supervisor.gateway.responses import to_json
from lmx_supervisor.gateway.result_response import ResultResponse


class EmbeddingList:
    """A `Collector` of vectors, kept packed as they came. `core.results` has seen to it that they fit the request."""

    def __init__(self, model: str, count: int, *, as_base64: bool) -> None:
        self._model = model
        self._vectors: list[bytes | None] = [None] * count
        self._as_base64 = as_base64

    def add(self, result: Vectors | Scores) -> None:
        """Take in some vectors."""
        assert isinstance(result, Vectors)
        size = result.dimensions * FLOAT_BYTES
        for number, start in enumerate(range(0, len(result.data), size)):
            self._vectors[result.first_index + number] = result.data[start : start + size]

    @property
    def missing(self) -> int:
        """How many vectors have not come."""
        return self._vectors.count(None)

    def body(self, usage: Usage) -> Iterator[bytes]:
        """The list, a piece for each vector."""
        yield b'{"object":"list","data":['
        for index, vector in enumerate(self._vectors):
            assert vector is not None, "asked for before everything was there"
            start = (
                b',{"object":"embedding","index":%d,"embedding":' if index else b'{"object":"embedding","index":%d,"embedding":'
            )
            yield start % index + self._render(vector) + b"}"
        total = usage.prompt_tokens
        yield b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (to_json(self._model), total, total)

    def _render(self, vector: bytes) -> bytes:
        if self._as_base64:
            return b'"%b"' % binascii.b2a_base64(vector, newline=False)
        return to_json(struct.unpack(f"<{len(vector) // FLOAT_BYTES}f", vector))


class Embeddings:
    """The endpoint."""

    def __init__(self, service: Service, open_answers: OpenAnswers) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers

    async def create(self, request: Request) -> ASGIApp:
        """Validate, then hand over. Raises `Problem`."""
        body = await read_json(request, embedding_decoder, self._service.config.server)
        chosen = await self._models.choose(body.model, caller_of(request.scope), ModelTask.EMBED)
        embed = to_embed_request(body, f"embd-{secrets.token_hex(12)}", chosen.model_id)
        vectors = EmbeddingList(chosen.model_id, len(embed.inputs), as_base64=body.encoding_format == "base64")
        return ResultResponse(self._service, embed, vectors, facts=chosen.facts, open_answers=self._open_answers)
