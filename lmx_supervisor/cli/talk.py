"""Asking a served model: one streamed answer, measured, and the model loaded first where that is needed."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.cli.answer import Answer
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import ServerRefused
from lmx_supervisor.cli.load_progress import load_model
from lmx_supervisor.cli.names import model_to_load
from lmx_supervisor.cli.terminal import write
from lmx_supervisor.config.names import AUTO, PRESET_PREFIX

CHAT_PATH = "/v1/chat/completions"

Asked = TypeVar("Asked")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask, and how the answer is to be made; None leaves the choice to the server."""

    model: str
    messages: tuple[Mapping[str, str], ...]
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def body(self) -> dict[str, Any]:
        """The request body of a streamed chat completion."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(self.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        settings = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return body | {name: value for name, value in settings.items() if value is not None}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer took, as the client saw it."""

    first_text_seconds: float
    total_seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one per second after it; None when there are too few to tell."""
        seconds = self.total_seconds - self.first_text_seconds
        return (self.completion_tokens - 1) / seconds if self.completion_tokens > 1 and seconds > 0 else None

    def figures(self) -> dict[str, float | None]:
        """Everything under its name."""
        return {**msgspec.structs.asdict(self), "tokens_per_second": self.tokens_per_second}

    def summary(self) -> str:
        """One line for the user."""
        speed = "" if self.tokens_per_second is None else f", {self.tokens_per_second:.1f} tok/s"
        return (
            f"[{self.prompt_tokens} prompt tokens ({self.cached_tokens} cached), first text after "
            f"{self.first_text_seconds:.2f} s; {self.completion_tokens} tokens in {self.total_seconds:.2f} s{speed}]"
        )


def ask(client: Client, question: Question, answer: Answer, *, aloud: bool) -> Measured:
    """Fill `answer` as it arrives, also printing it when `aloud`. Raises `CommandFailure`; `answer` keeps what had come."""
    started = time.monotonic()
    first_text_at: float | None = None
    try:
        with client.events(CHAT_PATH, question.body()) as events:
            for piece in answer.follow(events):
                first_text_at = first_text_at or time.monotonic()
                if aloud:
                    write(piece)
    finally:
        if aloud and answer.text and not answer.text.endswith("\n"):
            write("\n")
    ended = time.monotonic()
    usage = answer.usage
    details = usage.prompt_tokens_details if usage else None
    return Measured(
        first_text_seconds=(first_text_at or ended) - started,
        total_seconds=ended - started,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )


def ask_loading(client: Client, question: Question, answer: Answer, *, aloud: bool) -> Measured:
    """`ask`, but a model that is not served yet is loaded first. Raises `CommandFailure`."""
    return loading_first(client, question.model, lambda: ask(client, question, answer, aloud=aloud))


def loading_first(client: Client, model: str, request: Callable[[], Asked]) -> Asked:
    """Make a request; if its model is not served yet, load it and make it again. Raises `CommandFailure`."""
    try:
        return request()
    except ServerRefused as refused:
        if refused.code != ErrorCode.MODEL_NOT_FOUND or _is_no_id(model):
            raise
        not_served = refused
    try:
        model_id = model_to_load(client, model)
        if model_id is not None:
            load_model(client, {"model_id": model_id})
    except ServerRefused as refused:
        # Without the admin key nothing can be loaded, and that key is not what the user asked about.
        raise not_served if refused.code == "invalid_admin_key" else refused from None
    if model_id is None:
        # In the server's own words, which name the models that would do.
        raise not_served
    return request()


def _is_no_id(model: str) -> bool:
    """Whether a name cannot be loaded: the server's own words then say which models would do."""
    return model == AUTO or model.startswith(PRESET_PREFIX)


def conversation(system: str | None, turns: Sequence[Mapping[str, str]]) -> tuple[Mapping[str, str], ...]:
    """The messages of a request: the system prompt, where there is one, and the turns."""
    return (*([{"role": "system", "content": system}] if system else []), *turns)
