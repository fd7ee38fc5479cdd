"""What a request's output costs of its credit: the one rule, for the worker that spends and the supervisor that grants."""

from lmx_protocol.messages import AnyRequestEvent, Output, Reasoning, Scores, Text, TokenLogprob, ToolCallPart, Vectors

_NUMBER_BYTES = 8
_TOKEN_BYTES = 16
"""Of a token's place in a message, beside its own bytes."""


def is_output(event: AnyRequestEvent) -> bool:
    """Whether the event costs a frame and its bytes; `Prefill` and terminal events are free."""
    return isinstance(event, Output)


def output_bytes(event: AnyRequestEvent) -> int:
    """The bytes of credit that an event costs; 0 for the free ones."""
    match event:
        case Text():
            return len(event.text.encode()) + logprob_bytes(event.logprobs)
        case Reasoning():
            return len(event.text.encode())
        case ToolCallPart():
            return len(event.arguments.encode()) + len(event.name.encode()) + len(event.call_id.encode())
        case Vectors():
            return len(event.data)
        case Scores():
            return _NUMBER_BYTES * len(event.values)
        case _:
            return 0


def logprob_bytes(logprobs: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> int:
    """The bytes that log-probabilities cost."""
    return sum(
        _TOKEN_BYTES + len(entry.token) + sum(_TOKEN_BYTES + len(other.token) for other in entry.alternatives)
        for entry in logprobs
    )
