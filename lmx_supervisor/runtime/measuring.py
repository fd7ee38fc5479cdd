"""Measuring generations: real requests, submitted like everybody's, timed from the outside."""

import asyncio
import secrets
import time
from collections.abc import Callable

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequest,
    Cancelled,
    Failed,
    Finished,
    GenerateRequest,
    Message,
    Reasoning,
    Sampling,
    Text,
    ToolCallPart,
)
from lmx_protocol.states import FinishReason
from lmx_supervisor.core.autotune import Round
from lmx_supervisor.core.benchmark import Sample
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import Answer, Origin

ORIGIN = Origin(client_id="lmx-benchmark", lane=Lane.THROUGHPUT)
"""By this name operators find measurements among the requests of clients, who go first."""

Submit = Callable[[AnyRequest, Origin], Answer]


def measured_request(model_id: str, prompt: str, max_tokens: int, temperature: float) -> GenerateRequest:
    """A request whose prompt begins like no other, so that nothing of it was computed before."""
    return GenerateRequest(
        request_id=f"bench-{secrets.token_hex(12)}",
        model_id=model_id,
        messages=(Message(role="user", content=f"({secrets.token_hex(4)}) {prompt}"),),
        max_tokens=max_tokens,
        sampling=Sampling(temperature=temperature),
    )


async def measure(submit: Submit, request: GenerateRequest) -> Sample:
    """One generation from asking to its end. Raises `Refusal` when it has none; cancelled, it cancels the generation."""
    started = time.monotonic()
    answer = submit(request, ORIGIN)
    ended = has_tool_call = False
    first_token_at: float | None = None
    text = ""
    try:
        while True:
            event = await answer.next_event()
            now = time.monotonic()
            ended = isinstance(event, Finished | Failed | Cancelled)
            match event:
                case Text() | Reasoning() | ToolCallPart():
                    first_token_at = first_token_at or now
                    has_tool_call = has_tool_call or isinstance(event, ToolCallPart)
                    text += event.text if isinstance(event, Text) else ""
                case Finished():
                    return Sample(
                        prompt_tokens=event.usage.prompt_tokens,
                        tokens=event.usage.completion_tokens,
                        cached_tokens=event.usage.cached_tokens,
                        first_token_seconds=(first_token_at or now) - started,
                        total_seconds=now - started,
                        prefill_seconds=event.timing.prefill_seconds,
                        decode_seconds=event.timing.decode_seconds,
                        text=text,
                        stopped_by_itself=event.reason is not FinishReason.LENGTH,
                        has_tool_call=has_tool_call,
                    )
                case Failed():
                    raise Refusal(event.code, event.message, param=event.param, retry_after_seconds=event.retry_after_seconds)
                case Cancelled():
                    raise Refusal(ErrorCode.GENERATION_ERROR, "The measured generation was cancelled; start again.")
    finally:
        if not ended:
            answer.cancel()


async def measure_round(submit: Submit, requests: list[GenerateRequest]) -> tuple[Round, Refusal | None]:
    """Generations at one time, and why one of them failed, if any did. Cancelled, it cancels them all."""
    started = time.monotonic()
    running = [asyncio.ensure_future(measure(submit, request)) for request in requests]
    try:
        ends = await asyncio.gather(*running, return_exceptions=True)
    finally:
        for each in running:
            each.cancel()
    seconds = time.monotonic() - started
    refusals = [end for end in ends if isinstance(end, Refusal)]
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, Refusal):
            raise end
    samples = tuple(end for end in ends if isinstance(end, Sample))
    return Round(samples=samples, seconds=seconds, failures=len(refusals)), next(iter(refusals), None)
