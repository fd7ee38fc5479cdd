"""What a backend is to the engine. The step loop in `lmx_worker.engine` drives every backend through this and nothing else.

Threads: `prepare` and `count_tokens` run on the prepare thread, at any time after `load`; everything else runs on the engine
thread.
Batching, chunked prefill and prefix reuse are the backend's own business: one `step` advances every inserted request.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequest,
    CountRequest,
    EmbedRequest,
    GenerateRequest,
    ModelFacts,
    ModelSpec,
    RankRequest,
    Scores,
    Timing,
    TokenLogprob,
    Usage,
    Vectors,
)
from lmx_protocol.states import FinishReason
from lmx_worker.text.answer_reader import PLAIN, Reading
from lmx_worker.text.constraint import Constraint


class LoadError(Exception):
    """The model cannot be served: the code says whose fault it is, the message what to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class RequestError(Exception):
    """One request cannot be served; the worker and its other requests are fine."""

    def __init__(self, code: ErrorCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request after templating and tokenizing, ready to insert."""

    request: GenerateRequest
    tokens: Sequence[int]
    """The whole prompt, at least one token."""
    max_tokens: int
    """Already capped so that prompt and completion fit the context; at least 1."""
    constraint: Constraint | None = None
    """What the answer is held to while it is sampled, at its beginning; None for free text."""
    reading: Reading = PLAIN
    """How the answer is to be read."""


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """A request for embeddings or a ranking after tokenizing, ready to insert."""

    request: EmbedRequest | RankRequest
    inputs: Sequence[Sequence[int]]
    """What is computed, at least one token each: the inputs; the query and the documents; or the query with every document."""


AnyPrepared = Prepared | PreparedInputs


@dataclass(frozen=True, slots=True)
class PrefillDelta:
    """Prompt tokens of a request were processed in this step."""

    request_id: str
    done_tokens: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Tokens were sampled for a request; `text` is the part of them that is final (it may be empty)."""

    request_id: str
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """As `TextDelta`, of what the model thinks before it answers."""

    request_id: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of tool call number `index`; the first one carries its id and name."""

    request_id: str
    index: int
    arguments: str
    tokens: int
    call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ResultDelta:
    """Vectors or scores of a request are known."""

    request_id: str
    result: Vectors | Scores


@dataclass(frozen=True, slots=True)
class FinishDelta:
    """A request ended on its own; the backend has already forgotten it."""

    request_id: str
    reason: FinishReason
    usage: Usage
    timing: Timing
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorDelta:
    """A request failed alone; the backend has already forgotten it."""

    request_id: str
    code: ErrorCode
    message: str
    param: str | None = None


def generation_only(request: AnyRequest) -> GenerateRequest:
    """The request, for a backend or model that only generates. Raises `RequestError` for any other kind."""
    if isinstance(request, GenerateRequest):
        return request
    what = {EmbedRequest: "embeddings", RankRequest: "rankings", CountRequest: "token counts"}[type(request)]
    raise RequestError(ErrorCode.NOT_SUPPORTED, f"Model '{request.model_id}' gives no {what}.", param="model")


def check_prompt_tokens(tokens: Sequence[int], vocabulary_size: int) -> Sequence[int]:
    """The tokens of a prompt that the client tokenized itself. Raises `RequestError` for one that the model does not know."""
    strangers = [token for token in tokens if not 0 <= token < vocabulary_size]
    if strangers:
        message = f"the prompt holds token {strangers[0]}; this model's tokens are 0 to {vocabulary_size - 1}"
        raise RequestError(ErrorCode.INVALID_VALUE, message, param="prompt")
    return tokens


Delta = PrefillDelta | TextDelta | ReasoningDelta | ToolCallDelta | ResultDelta | FinishDelta | ErrorDelta


@dataclass(frozen=True, slots=True)
class BackendStats:
    """How full the backend is and how much it has done since load."""

    active: int
    tokens_prefilled: int
    tokens_decoded: int
    kv_used_ratio: float


LoadProgressCallback = Callable[[str, int, int], None]
"""Called as (phase, done_bytes, total_bytes); every call also feeds the hang detection."""


@runtime_checkable
class Backend(Protocol):
    """The whole interface. Importing a backend's module must be cheap: `import_libraries` brings in what it stands on."""

    def import_libraries(self) -> str:
        """Import the native libraries (seconds) and return their version. Raises `ImportError` where they do not work."""

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        """Bring the model into memory, ready to step. Raises `LoadError`."""

    def prepare(self, request: AnyRequest) -> AnyPrepared:
        """Template, tokenize and validate. Raises `RequestError`, also for a kind of request that this model cannot answer.

        Thread-safe beside `step`.
        """

    def count_tokens(self, request: GenerateRequest) -> int:
        """How long the request's prompt is, be it longer than the context. Raises `RequestError`. Thread-safe beside `step`."""

    def has_room(self) -> bool:
        """Whether `insert` may be called now."""

    def insert(self, prepared: AnyPrepared) -> None:
        """Take a request into the batch; it is computed by the following steps. Raises `RequestError`."""

    def step(self) -> list[Delta]:
        """Advance every inserted request: at most one prefill chunk and one decoded token each. Empty batch: no work, []."""

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from the next step on; a backend whose facts do not offer that leaves it."""

    def limit_prefill(self, tokens: int | None) -> None:
        """At most so many prompt tokens in each step from the next one on; None: its own chunk.

        A backend that cannot leave prompts out of a step may take one token of each.
        """

    def pause(self, request_id: str) -> None:
        """Keep a request's place but decode nothing for it (its reader is slow)."""

    def resume(self, request_id: str) -> None:
        """Undo `pause`."""

    def remove(self, request_id: str) -> Usage:
        """Forget a cancelled request and say what it used; prompt work already done stays reusable. Unknown ids: `Usage()`."""

    def stats(self) -> BackendStats:
        """Counters for the heartbeat; called from the heart thread, so it reads plain numbers only."""

    def close(self) -> None:
        """Free the model."""
