"""Driving a backend by hand, the way the worker's engine does, and reading what came out."""

from lmx_protocol.messages import GenerateRequest, Message, OutputForm, Sampling
from lmx_worker.backends.base import Backend, Delta, FinishDelta, TextDelta

GREEDY = Sampling(temperature=0.0)
FREE_TEXT = OutputForm()


def ask(
    request_id: str,
    text: str,
    *,
    max_tokens: int | None = 24,
    sampling: Sampling = GREEDY,
    stop: tuple[str, ...] = (),
    output: OutputForm = FREE_TEXT,
    logprobs: int | None = None,
) -> GenerateRequest:
    """A chat request of one user message."""
    return GenerateRequest(
        request_id=request_id,
        model_id="m",
        messages=(Message(role="user", content=text),),
        max_tokens=max_tokens,
        sampling=sampling,
        stop=stop,
        output=output,
        logprobs=logprobs,
    )


def start(backend: Backend, *requests: GenerateRequest) -> None:
    """Prepare and insert."""
    for request in requests:
        backend.insert(backend.prepare(request))


def run(backend: Backend) -> list[Delta]:
    """Step until nothing is active."""
    deltas: list[Delta] = []
    while backend.stats().active:
        deltas.extend(backend.step())
    return deltas


def step_until_text(backend: Backend, request_id: str, tokens: int) -> list[Delta]:
    """Step until a request has sampled this many tokens."""
    deltas: list[Delta] = []
    while sum(delta.tokens for delta in deltas if isinstance(delta, TextDelta) and delta.request_id == request_id) < tokens:
        deltas.extend(backend.step())
    return deltas


def text_of(deltas: list[Delta], request_id: str) -> str:
    """All text of a request."""
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta) and delta.request_id == request_id)


def finish_of(deltas: list[Delta], request_id: str) -> FinishDelta:
    """The one end of a request."""
    (finish,) = (delta for delta in deltas if isinstance(delta, FinishDelta) and delta.request_id == request_id)
    return finish


def answer(backend: Backend, request: GenerateRequest) -> str:
    """What the request says when it is alone."""
    start(backend, request)
    return text_of(run(backend), request.request_id)
