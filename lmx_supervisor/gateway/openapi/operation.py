"""What the OpenAPI document has to know of one method of one path."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lmx_supervisor.gateway.openapi import inference_answers as inference

Key = Literal["inference", "admin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one path."""

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    key: Key | None
    """Which key it needs, where keys are configured."""
    answers: dict[int, Any] = field(default_factory=dict)
    """Types by status."""
    error: Any = inference.ErrorAnswer
    """Of every other status."""
    text: str | None = None
    """The media type of an answer that is no JSON."""
    streams: bool = False
    """The answer is a stream of server-sent events when the body says `stream`."""
    body: Any = None
    query: Any = None
    example: dict[str, Any] | None = None
