"""What the inference routes answer, as structs for the OpenAPI document."""

from typing import Any, Literal

from msgspec import Struct

from lmx_protocol.states import RankMethod


class Answer(Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class ProblemDetail(Answer, frozen=True, kw_only=True):
    """Why a request was refused or failed; `message` says what to do, `param` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer, frozen=True, kw_only=True):
    """The envelope of every error."""

    error: ProblemDetail


class CalledFunctionOut(Answer, frozen=True, kw_only=True):
    """A function that the model calls; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallOut(Answer, frozen=True, kw_only=True):
    """A tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunctionOut


class ChatMessageOut(Answer, frozen=True, kw_only=True):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[ToolCallOut] = []


class TokenOut(Answer, frozen=True, kw_only=True):
    """A token that could have been sampled."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobOut(TokenOut, frozen=True, kw_only=True):
    """The token that was sampled."""

    top_logprobs: list[TokenOut]


class ChatLogprobs(Answer, frozen=True, kw_only=True):
    """Log-probabilities of a choice."""

    content: list[TokenLogprobOut]
    refusal: None


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(Answer, frozen=True, kw_only=True):
    """One answer."""

    index: int
    message: ChatMessageOut
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class PromptDetails(Answer, frozen=True, kw_only=True):
    """Of the prompt's tokens: those that were computed before."""

    cached_tokens: int


class CompletionDetails(Answer, frozen=True, kw_only=True):
    """Of the completion's tokens: those spent on thinking."""

    reasoning_tokens: int


class UsageOut(Answer, frozen=True, kw_only=True):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatCompletion(Answer, frozen=True, kw_only=True):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageOut


class LegacyLogprobsOut(Answer, frozen=True, kw_only=True):
    """Log-probabilities in the legacy shape."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Answer, frozen=True, kw_only=True):
    """One completion."""

    index: int
    text: str
    logprobs: LegacyLogprobsOut | None
    finish_reason: FinishReason


class TextCompletion(Answer, frozen=True, kw_only=True):
    """A legacy completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageOut


class ModelOut(Answer, frozen=True, kw_only=True):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Answer, frozen=True, kw_only=True):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelOut]


class CancelledRequest(Answer, frozen=True, kw_only=True):
    """A request that was cancelled by its id."""

    request_id: str
    cancelled: Literal[True]


class EmbeddingOut(Answer, frozen=True, kw_only=True):
    """One vector: numbers, or their little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TokensRead(Answer, frozen=True, kw_only=True):
    """Token counts of a request that generates nothing."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingListOut(Answer, frozen=True, kw_only=True):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingOut]
    model: str
    usage: TokensRead


class RankedDocument(Answer, frozen=True, kw_only=True):
    """A document's text."""

    text: str


class RankedOut(Answer, frozen=True, kw_only=True):
    """A document's place among those that were sent, and its score."""

    index: int
    relevance_score: float
    document: RankedDocument | None = None


class RankingOut(Answer, frozen=True, kw_only=True):
    """The documents, the most relevant first."""

    id: str
    object: Literal["list"]
    model: str
    scored_by: RankMethod
    results: list[RankedOut]
    usage: TokensRead


class MessagesError(Answer, frozen=True, kw_only=True):
    """Why a request in Anthropic's dialect was refused or failed."""

    type: str
    message: str


class MessagesErrorAnswer(Answer, frozen=True, kw_only=True):
    """The envelope of every error below /v1/messages."""

    type: Literal["error"]
    error: MessagesError
    request_id: str


class MessagesUsage(Answer, frozen=True, kw_only=True):
    """Token counts in Anthropic's words."""

    input_tokens: int
    output_tokens: int


class MessageOut(Answer, frozen=True, kw_only=True):
    """A message; its content blocks are Anthropic's."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessagesUsage


class CountedTokens(Answer, frozen=True, kw_only=True):
    """How many tokens a prompt has."""

    input_tokens: int


class ResponseOut(Answer, frozen=True, kw_only=True):
    """A response of the Responses API; its items are OpenAI's."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    model: str
    output: list[dict[str, Any]]
    output_text: str
    usage: dict[str, Any] | None
    previous_response_id: str | None
    tools: list[dict[str, Any]]


class ItemList(Answer, frozen=True, kw_only=True):
    """The input of a response."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(Answer, frozen=True, kw_only=True):
    """A response that was forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
