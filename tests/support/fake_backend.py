"""A backend for tests of the shell: the test says what each step returns; what the shell asked of it is written down."""

from collections import deque

from lmx_protocol.messages import GenerateRequest, ModelFacts, ModelSpec, Usage
from lmx_worker.backends.base import BackendStats, Delta, LoadProgressCallback, Prepared

FACTS = ModelFacts(
    backend="fake",
    backend_version="0",
    architecture="none",
    context_length=128,
    train_context_length=128,
    vocabulary_size=1,
    parameters=1,
    weights_bytes=1,
    slots=2,
    has_chat_template=False,
)


class FakeBackend:
    """Returns, or raises, one prepared outcome per step."""

    def __init__(self, *, slots: int = 2) -> None:
        self.slots = slots
        self.outcomes: deque[list[Delta] | Exception] = deque()
        self.insert_error: Exception | None = None
        self.prepare_error: Exception | None = None
        self.calls: list[tuple[str, str]] = []
        self.inserted: set[str] = set()

    def import_libraries(self) -> str:
        return "0"

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        progress("weights", 1, 1)
        return FACTS

    def prepare(self, request: GenerateRequest) -> Prepared:
        if self.prepare_error is not None:
            raise self.prepare_error
        return Prepared(request=request, tokens=[1], max_tokens=10)

    def count_tokens(self, request: GenerateRequest) -> int:
        if self.prepare_error is not None:
            raise self.prepare_error
        return len(request.prompt or "")

    def has_room(self) -> bool:
        return len(self.inserted) < self.slots

    def insert(self, prepared: Prepared) -> None:
        if self.insert_error is not None:
            raise self.insert_error
        self.calls.append(("insert", prepared.request.request_id))
        self.inserted.add(prepared.request.request_id)

    def step(self) -> list[Delta]:
        outcome = self.outcomes.popleft() if self.outcomes else []
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def use_threads(self, threads: int) -> None:
        self.calls.append(("use_threads", str(threads)))

    def limit_prefill(self, tokens: int | None) -> None:
        if tokens is not None:
            self.calls.append(("limit_prefill", str(tokens)))

    def pause(self, request_id: str) -> None:
        self.calls.append(("pause", request_id))

    def resume(self, request_id: str) -> None:
        self.calls.append(("resume", request_id))

    def remove(self, request_id: str) -> Usage:
        self.calls.append(("remove", request_id))
        self.inserted.discard(request_id)
        return Usage(prompt_tokens=1, completion_tokens=2)

    def stats(self) -> BackendStats:
        return BackendStats(active=len(self.inserted), tokens_prefilled=0, tokens_decoded=0, kv_used_ratio=0.0)

    def close(self) -> None:
        self.calls.append(("close", ""))
