"""What a request makes of the vectors that its inputs give, one after the other: vectors to send, cosines, or scores. Pure."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from lmx_protocol.messages import EmbedRequest, RankRequest, Scores, Vectors
from lmx_protocol.states import RankMethod
from lmx_worker.backends.vectors import Vector, cosine, finite, packed, unit


class Results(Protocol):
    """Of one request. Vectors come in the order of its inputs."""

    def of(self, vectors: Sequence[Vector]) -> Iterator[Vectors | Scores]:
        """What there is to tell after these inputs. Raises `NotANumberError` when the model computed nonsense."""


def results_for(request: EmbedRequest | RankRequest, method: RankMethod) -> Results:
    """`method` is how this model ranks; a cross-encoder gives vectors of one component, the score."""
    if isinstance(request, EmbedRequest):
        return _Embeddings(request)
    return _Cosines(request) if method is RankMethod.COSINE else _Scores(request)


class _Embeddings:
    def __init__(self, request: EmbedRequest) -> None:
        self._request = request
        self._told = 0

    def of(self, vectors: Sequence[Vector]) -> Iterator[Vectors | Scores]:
        units = [unit(vector, self._request.dimensions) for vector in vectors]
        yield from packed(self._request.request_id, self._told, units)
        self._told += len(units)


class _Scores:
    def __init__(self, request: RankRequest) -> None:
        self._request_id = request.request_id
        self._told = 0

    def of(self, vectors: Sequence[Vector]) -> Iterator[Vectors | Scores]:
        values = tuple(finite(vector[0]) for vector in vectors)
        yield Scores(request_id=self._request_id, method=RankMethod.CROSS_ENCODER, first_index=self._told, values=values)
        self._told += len(values)


class _Cosines:
    """The first vector is the query's."""

    def __init__(self, request: RankRequest) -> None:
        self._request_id = request.request_id
        self._query: Vector | None = None
        self._told = 0

    def of(self, vectors: Sequence[Vector]) -> Iterator[Vectors | Scores]:
        units = [unit(vector) for vector in vectors]
        if self._query is None:
            self._query, *units = units
        query = self._query
        values = tuple(cosine(query, each) for each in units)
        if values:
            yield Scores(request_id=self._request_id, method=RankMethod.COSINE, first_index=self._told, values=values)
        self._told += len(values)
