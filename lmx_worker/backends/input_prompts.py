"""From a request for embeddings or a ranking to the tokens that are computed, and every check before the engine sees it. Pure.

Nothing is cut to fit: an input that is longer than the model reads is refused, because its vector would not be of that input.
"""

from collections.abc import Callable, Sequence

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import EMBEDDING_RESULT_BYTES_MAX
from lmx_protocol.messages import AnyRequest, EmbedRequest, RankRequest
from lmx_worker.backends.base import PreparedInputs, RequestError
from lmx_worker.backends.vectors import FLOAT_BYTES

Tokens = Sequence[int]


class InputEncoder:
    """Prepares requests for one loaded model that embeds, or (given `pair`) that is a cross-encoder."""

    def __init__(
        self,
        *,
        tokenize: Callable[[str], Tokens],
        pair: Callable[[str, str], Tokens] | None = None,
        context_length: int,
        vocabulary_size: int,
        dimensions: int,
    ) -> None:
        """`tokenize` adds what the model expects around a text; `pair` makes one input of a query and a document."""
        self._tokenize = tokenize
        self._pair = pair
        self._context_length = context_length
        self._vocabulary_size = vocabulary_size
        self._dimensions = dimensions

    def prepare(self, request: AnyRequest) -> PreparedInputs:
        """Tokenize and validate. Raises `RequestError`, also for a kind of request that this model cannot answer."""
        match request:
            case EmbedRequest() if self._pair is None:
                return PreparedInputs(request=request, inputs=self._inputs(request))
            case RankRequest():
                return PreparedInputs(request=request, inputs=self._ranked(request))
            case _:
                what = "it is a reranker: use /v1/rerank" if self._pair else "it is an embedding model: use /v1/embeddings"
                message = f"Model '{request.model_id}' cannot answer this; {what}."
                raise RequestError(ErrorCode.NOT_SUPPORTED, message, param="model")

    def _inputs(self, request: EmbedRequest) -> list[Tokens]:
        dimensions = request.dimensions or self._dimensions
        if dimensions > self._dimensions:
            message = f"dimensions: this model's vectors have {self._dimensions}; {dimensions} cannot be made of them."
            raise RequestError(ErrorCode.INVALID_VALUE, message, param="dimensions")
        if len(request.inputs) * dimensions * FLOAT_BYTES > EMBEDDING_RESULT_BYTES_MAX:
            at_most = EMBEDDING_RESULT_BYTES_MAX // (dimensions * FLOAT_BYTES)
            message = f"input: {len(request.inputs)} vectors of {dimensions} dimensions are too many at once; send {at_most}."
            raise RequestError(ErrorCode.INVALID_VALUE, message, param="input")
        encoded = [self._given(given) if not isinstance(given, str) else self._tokenize(given) for given in request.inputs]
        for index, tokens in enumerate(encoded):
            self._check_length(tokens, f"input {index}", "input")
        return encoded

    def _ranked(self, request: RankRequest) -> list[Tokens]:
        if self._pair is not None:
            encoded = [self._pair(request.query, document) for document in request.documents]
            for index, tokens in enumerate(encoded):
                self._check_length(tokens, f"the query with document {index}", "documents")
            return encoded
        query, *documents = (self._tokenize(text) for text in (request.query, *request.documents))
        self._check_length(query, "the query", "query")
        for index, tokens in enumerate(documents):
            self._check_length(tokens, f"document {index}", "documents")
        return [query, *documents]

    def _given(self, tokens: tuple[int, ...]) -> Tokens:
        for token in tokens:
            if not 0 <= token < self._vocabulary_size:
                message = f"input: token {token} does not exist; this model's tokens are 0 to {self._vocabulary_size - 1}."
                raise RequestError(ErrorCode.INVALID_VALUE, message, param="input")
        return tokens

    def _check_length(self, tokens: Tokens, what: str, param: str) -> None:
        if not tokens:
            raise RequestError(ErrorCode.INVALID_REQUEST, f"{param}: {what} holds no tokens.", param=param)
        if len(tokens) > self._context_length:
            message = (
                f"{param}: {what} has {len(tokens)} tokens, and this model reads {self._context_length} at a time. "
                "Nothing is cut off unasked: shorten it, or send it in parts."
            )
            raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param=param)
