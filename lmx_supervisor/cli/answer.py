"""One streamed chat answer: the events of /v1/chat/completions to text, and what is known when it has ended. No I/O."""

from collections.abc import Iterable, Iterator

import msgspec

from lmx_supervisor.cli.failures import CutOff, NoAnswer, ServerRefused


class PromptDetails(msgspec.Struct, frozen=True):
    """Of the prompt tokens, how many came from the cache."""

    cached_tokens: int | None = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the OpenAI dialect gives them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class Problem(msgspec.Struct, frozen=True):
    """The error envelope's inside."""

    message: str
    code: str | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: Usage | None = None
    error: Problem | None = None


class Answer(msgspec.Struct, kw_only=True):
    """What has arrived of one answer; complete once `follow` has ended without an exception."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None

    def follow(self, events: Iterable[str]) -> Iterator[str]:
        """Each piece of text as it arrives, never an empty one.

        Raises:
            ServerRefused: the server reported an error in the stream.
            CutOff: the events ended without the end mark.
            NoAnswer: an event that is not a chunk of an answer.
        """
        for event in events:
            if event == "[DONE]":
                return
            chunk = _decode(event)
            if chunk.error is not None:
                raise ServerRefused(chunk.error.message, chunk.error.code)
            self.usage = chunk.usage or self.usage
            for choice in chunk.choices:
                self.finish_reason = choice.finish_reason or self.finish_reason
                if choice.delta.content:
                    self.text += choice.delta.content
                    yield choice.delta.content
        raise CutOff


def _decode(event: str) -> _Chunk:
    try:
        return msgspec.json.decode(event, type=_Chunk)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NoAnswer(f"the server sent something that is no part of an answer: {error}") from error
