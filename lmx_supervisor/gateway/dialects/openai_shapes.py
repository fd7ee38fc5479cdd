"""Pieces of OpenAI's answers that chat and legacy completions share: events, usage, log-probabilities. Pure."""

import codecs
from collections.abc import Sequence
from typing import Any

from lmx_protocol.messages import Finished, TokenLogprob
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import to_json
from lmx_supervisor.gateway.version import VERSION

SYSTEM_FINGERPRINT = f"lmx-{VERSION}"

DONE = b"data: [DONE]\n\n"

# Valid inside JSON, but line ends to the readers of some clients, which would cut an event in two.
_LINE_ENDS = tuple((end.encode(), rf"\u{ord(end):04x}".encode()) for end in "\u0085\u2028\u2029")


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + on_one_line(to_json(content)) + b"\n\n"


def error_event(problem: Problem) -> bytes:
    """The error envelope as an event, which the official SDKs raise as an exception."""
    return event(problem.envelope())


def on_one_line(encoded: bytes) -> bytes:
    """JSON without any character that a reader of lines could take for a line's end."""
    if encoded.isascii():
        return encoded
    for end, escaped in _LINE_ENDS:
        encoded = encoded.replace(end, escaped)
    return encoded


def usage_of(answers: Sequence[Finished], *, choices_per_prompt: int) -> dict[str, Any]:
    """The usage of a whole request. `answers` are in order, prompt by prompt; each prompt counts once, every completion counts.

    Of a prompt that several choices share, the choice that found least in the cache says what was there before the request.
    """
    first_of_each = answers[::choices_per_prompt]
    prompt_tokens = sum(answer.usage.prompt_tokens for answer in first_of_each)
    completion_tokens = sum(answer.usage.completion_tokens for answer in answers)
    cached_tokens = sum(
        min(answer.usage.cached_tokens for answer in answers[start : start + choices_per_prompt])
        for start in range(0, len(answers), choices_per_prompt)
    )
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.usage.reasoning_tokens for answer in answers)},
    }


def chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat choice. A token that is not whole characters shows them as U+FFFD; its `bytes` are exact."""
    return {
        "content": [
            {
                **_token(entry.token, entry.logprob),
                "top_logprobs": [_token(other.token, other.logprob) for other in entry.alternatives],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}


class LegacyLogprobs:
    """The `logprobs` of one legacy choice as they come; `text_offset` goes on from piece to piece.

    Offsets count the characters of the answer from its beginning. A token that is not whole characters is written as the vendor
    wrote it, `bytes:\\xf0\\x9f`, so that different tokens stay different keys.
    """

    def __init__(self, *, offset: int = 0) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The `logprobs` object of the next piece."""
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(entry.token))
        return {
            "tokens": [_legacy_token(entry.token) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [_legacy_alternatives(entry) for entry in entries],
            "text_offset": offsets,
        }


def _legacy_alternatives(entry: TokenLogprob) -> dict[str, float]:
    shown = {_legacy_token(other.token): other.logprob for other in entry.alternatives}
    return {**shown, _legacy_token(entry.token): entry.logprob}


def _legacy_token(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
