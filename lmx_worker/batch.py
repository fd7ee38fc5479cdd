"""All requests of a worker, from acceptance to their terminal event. No threads: the engine calls it between and around steps.

A request is first *preparing* (templated and tokenized elsewhere), then *waiting* for room, then *running* in the backend. Its
stream may outlive that: a terminal event waits for the text before it, and text waits for credit.
"""

from collections import deque
from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.limits import FAILURE_MESSAGE_CHARACTERS_MAX, QUEUE_TOTAL
from lmx_protocol.messages import AnyRequestEvent, Begin, Credit, Failed, Finished, Usage
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import (
    AnyPrepared,
    Backend,
    Delta,
    ErrorDelta,
    FinishDelta,
    PrefillDelta,
    ReasoningDelta,
    RequestError,
    ResultDelta,
    TextDelta,
    ToolCallDelta,
)
from lmx_worker.inbox import Counted
from lmx_worker.stream import RequestStream


@dataclass(slots=True)
class _Entry:
    stream: RequestStream
    prepared: AnyPrepared | None = None
    running: bool = False
    paused: bool = False
    decodes: bool = False


class Batch:
    """Accepts, admits, steps, cancels and ends requests; every accepted one ends exactly once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()

    @property
    def active(self) -> int:
        """Requests in the backend."""
        return sum(entry.running for entry in self._entries.values())

    @property
    def waiting(self) -> int:
        """Requests that are preparing or wait for room."""
        return sum(not entry.running and not entry.stream.ending for entry in self._entries.values())

    @property
    def can_step(self) -> bool:
        """Whether a step would do anything: a request runs unpaused, or one could be admitted."""
        runs = any(entry.running and not entry.paused for entry in self._entries.values())
        return runs or (bool(self._waiting) and self._backend.has_room())

    @property
    def decodes(self) -> bool:
        """Whether a step would bring somebody's next token."""
        return any(entry.running and entry.decodes and not entry.paused for entry in self._entries.values())

    @property
    def computing(self) -> bool:
        """Whether progress is due: a step would do something, or a request is being prepared. Slow readers do not count."""
        is_preparing = self.waiting > len(self._waiting)
        return is_preparing or self.can_step

    @property
    def flush_at(self) -> float | None:
        """When text that is held back for merging must go even if no step happens until then."""
        return min((at for entry in self._entries.values() if (at := entry.stream.flush_at) is not None), default=None)

    def accept(self, begin: Begin) -> bool:
        """Register a request before it is prepared; False: there are too many, and its failure is in the next `collect`.

        Raises:
            ProtocolViolation: a request of that id is here already.
        """
        request_id = begin.request.request_id
        if request_id in self._entries:
            raise ProtocolViolation(f"request {request_id} was sent twice")
        has_room = len(self._entries) < QUEUE_TOTAL
        self._entries[request_id] = _Entry(
            RequestStream(request_id, credit_frames=begin.credit_frames, credit_bytes=begin.credit_bytes)
        )
        if not has_room:
            self._fail(request_id, ErrorCode.OVERLOADED, "the model has too many requests; try again later")
        return has_room

    def enqueue(self, prepared: AnyPrepared) -> None:
        """A request is prepared; one that was cancelled meanwhile is ignored."""
        entry = self._entries.get(prepared.request.request_id)
        if entry is None or entry.stream.ending:
            return
        entry.prepared = prepared
        self._waiting.append(prepared.request.request_id)

    def counted(self, counted: Counted) -> None:
        """A request's tokens were counted, which was all it asked for; one that was cancelled meanwhile is ignored."""
        entry = self._entries.get(counted.request_id)
        if entry is not None and not entry.stream.ending:
            usage = Usage(prompt_tokens=counted.tokens)
            entry.stream.end(Finished(request_id=counted.request_id, reason=FinishReason.STOP, usage=usage))

    def refuse(self, request_id: str, error: RequestError) -> None:
        """A request could not be prepared or inserted; one that was cancelled meanwhile is ignored."""
        entry = self._entries.get(request_id)
        if entry is not None and not entry.stream.ending:
            self._fail(request_id, error.code, str(error), error.param)

    def grant(self, credit: Credit) -> None:
        """Allow further text; a request that has ended meanwhile is ignored."""
        entry = self._entries.get(credit.request_id)
        if entry is not None:
            entry.stream.grant(credit.frames, credit.bytes)

    def cancel(self, request_id: str) -> None:
        """End a request wherever it is; one that has ended meanwhile is ignored."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        usage = Usage()
        if entry.running:
            usage = self._backend.remove(request_id)
            entry.running = False
        elif request_id in self._waiting:
            self._waiting.remove(request_id)
        entry.stream.cancel(usage)

    def cancel_all(self) -> None:
        """End every request."""
        for request_id in list(self._entries):
            self.cancel(request_id)

    def step(self) -> list[Delta]:
        """Admit what there is room for and advance the backend once. Whatever the backend raises passes through."""
        while self._waiting and self._backend.has_room():
            request_id = self._waiting.popleft()
            entry = self._entries[request_id]
            prepared, entry.prepared = entry.prepared, None
            assert prepared is not None
            # Before the insert: if that raises something else, the request is one of those that the failed step takes along.
            entry.running = True
            try:
                self._backend.insert(prepared)
            except RequestError as error:
                self.refuse(request_id, error)
        return self._backend.step()

    def apply(self, deltas: list[Delta], now: float) -> None:
        """Put what a step did into the streams."""
        for delta in deltas:
            entry = self._entries[delta.request_id]
            stream = entry.stream
            if isinstance(delta, TextDelta | ReasoningDelta | ToolCallDelta):
                entry.decodes = True
            match delta:
                case TextDelta():
                    stream.add_text(delta.text, delta.tokens, now, delta.logprobs)
                case ReasoningDelta():
                    stream.add_reasoning(delta.text, delta.tokens, now)
                case ToolCallDelta():
                    stream.add_tool_call(delta, now)
                case ResultDelta():
                    stream.add_result(delta.result)
                case PrefillDelta():
                    stream.add_prefill(
                        done_tokens=delta.done_tokens, prompt_tokens=delta.prompt_tokens, cached_tokens=delta.cached_tokens
                    )
                case FinishDelta():
                    self._entries[delta.request_id].running = False
                    stream.end(
                        Finished(
                            request_id=delta.request_id,
                            reason=delta.reason,
                            usage=delta.usage,
                            timing=delta.timing,
                            stop_sequence=delta.stop_sequence,
                        )
                    )
                case ErrorDelta():
                    self._fail(delta.request_id, delta.code, delta.message, delta.param)

    def fail_running(self, message: str) -> None:
        """A step failed as a whole: what ran in it cannot go on, what waits can."""
        for request_id, entry in self._entries.items():
            if entry.running:
                self._backend.remove(request_id)
                self._fail(request_id, ErrorCode.GENERATION_ERROR, message)

    def collect(self, now: float) -> list[AnyRequestEvent]:
        """Every event that may leave now, in order; pauses and resumes the readers that fell behind or caught up."""
        events: list[AnyRequestEvent] = []
        for request_id, entry in list(self._entries.items()):
            events += entry.stream.take(now)
            if entry.stream.ended:
                del self._entries[request_id]
            elif entry.running and entry.paused != entry.stream.stalled:
                entry.paused = entry.stream.stalled
                change = self._backend.pause if entry.paused else self._backend.resume
                change(request_id)
        return events

    def _fail(self, request_id: str, code: ErrorCode, message: str, param: str | None = None) -> None:
        entry = self._entries[request_id]
        entry.running = False
        message = message[:FAILURE_MESSAGE_CHARACTERS_MAX]
        entry.stream.end(Failed(request_id=request_id, code=code, message=message, param=param))
