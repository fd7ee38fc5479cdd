"""What a simulated worker has to compute for a request: decided by the prompt alone, so that equal questions fare equally."""

import zlib
from dataclasses import dataclass, field

from lmx_protocol.messages import AnyRequestEvent, GenerateRequest

CANARY = "canary"
POISON = "poison"
"""A prompt that begins so kills every worker that computes it, at the same token each time."""
REFUSED = "refused"
"""A prompt that begins so is refused by the worker."""
_PROMPT_TOKENS_MAX = 200
_TEXTS_MAX = 5


@dataclass(slots=True)
class Job:
    """One request in the worker."""

    request_id: str
    prompt: str
    prompt_tokens: int
    texts: int
    dies_at_text: int | None
    seq: int = 0
    prefilled: int = 0
    emitted: list[str] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True)
class Testimony:
    """What a worker really said about a request."""

    texts: list[str] = field(default_factory=list)
    end: AnyRequestEvent | None = None


def job_of(request: GenerateRequest) -> Job:
    """The work that a request is; one without a prompt is the canary."""
    prompt = request.prompt or CANARY
    number = zlib.crc32(prompt.encode())
    texts = 1 + number % _TEXTS_MAX
    dies_at_text = number % texts if prompt.startswith(POISON) else None
    return Job(request.request_id, prompt, 1 + number % _PROMPT_TOKENS_MAX, texts, dies_at_text)
