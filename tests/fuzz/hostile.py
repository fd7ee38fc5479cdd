"""Frames that no honest worker sends: random bytes, broken valid frames, and well-formed messages full of hostile values."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    Alternative,
    Beat,
    Begin,
    Cancel,
    Cancelled,
    CountRequest,
    Credit,
    EmbedRequest,
    Failed,
    Finished,
    FromWorker,
    GenerateRequest,
    Goodbye,
    Hello,
    Imported,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Message,
    Prefill,
    PrefixesDropped,
    PrefixesSaved,
    PrefixRestored,
    RankRequest,
    Reasoning,
    Scores,
    Shutdown,
    StepEvents,
    Text,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallPart,
    ToWorker,
    Usage,
    Vectors,
)
from lmx_protocol.states import FinishReason, RankMethod, WorkerPhase
from tests.support.stage import facts, spec

RANDOM_BYTES_MAX = 64
NESTING = 200
HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1),
    *(0.0, -1.0, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "r", "canary-boot-1", "boot-1", "a" * 1000, "\x00", "\U0010ffff", b"\xff", None, True, [], {}, [[[]]], {"a": 1}),
)

LOGPROB = TokenLogprob(token=b"x", logprob=-0.5, alternatives=(Alternative(token=b"y", logprob=-1.5),))
FROM_WORKER: tuple[FromWorker, ...] = (
    Hello(protocol=1, incarnation="boot-1", pid=1, backend="llamacpp"),
    Imported(backend_version="1", seconds=0.5),
    LoadProgress(phase="weights", done=1, total=2),
    Loaded(facts=facts(), seconds=0.1, footprint_bytes=1000),
    LoadFailed(code=ErrorCode.MODEL_PROBE_FAILED, message="no"),
    StepEvents(events=(Prefill(request_id="r", done_tokens=1, prompt_tokens=2), Text(request_id="r", seq=1, text="x"))),
    StepEvents(
        events=(Reasoning(request_id="r", text="x"), ToolCallPart(request_id="r", seq=1, index=0, call_id="c", name="f"))
    ),
    StepEvents(
        events=(
            Text(request_id="r", text="x", logprobs=(LOGPROB,)),
            Scores(request_id="r", method=RankMethod.COSINE, first_index=0, values=(0.5,)),
        )
    ),
    StepEvents(events=(Vectors(request_id="r", first_index=0, dimensions=1, data=bytes(4)),)),
    StepEvents(events=(Finished(request_id="r", reason=FinishReason.STOP, usage=Usage(completion_tokens=1)),)),
    StepEvents(events=(Failed(request_id="r", code=ErrorCode.GENERATION_ERROR, message="no"), Cancelled(request_id="r"))),
    Beat(
        seq=1,
        phase=WorkerPhase.GENERATING,
        steps=1,
        tokens_prefilled=1,
        tokens_decoded=1,
        active=1,
        waiting=0,
        footprint_bytes=1000,
    ),
    PrefixesSaved(prefixes=1, tokens=100, bytes=1000, kept=1, seconds=0.1),
    PrefixRestored(tokens=100, bytes=1000, seconds=0.1),
    PrefixesDropped(files=1, reason="its checksum is wrong"),
    Goodbye(reason="shutdown"),
)
GENERATE = GenerateRequest(
    request_id="r",
    model_id="m",
    messages=(Message(role="assistant", content="x", tool_calls=(ToolCall(call_id="c", name="f", arguments="{}"),)),),
    tools=(Tool(name="f"),),
)
TO_WORKER: tuple[ToWorker, ...] = (
    Load(model=spec(), digest="d", prefix_directory="/nowhere"),
    Begin(request=GENERATE, credit_frames=1, credit_bytes=1),
    Begin(request=EmbedRequest(request_id="r", model_id="m", inputs=("x", (1, 2))), credit_frames=1, credit_bytes=1),
    Begin(request=RankRequest(request_id="r", model_id="m", query="q", documents=("d",)), credit_frames=1, credit_bytes=1),
    Begin(request=CountRequest(request_id="r", model_id="m", of=GENERATE), credit_frames=1, credit_bytes=1),
    Cancel(request_id="r"),
    Credit(request_id="r", frames=1, bytes=1),
    Shutdown(grace_seconds=1.0, prefix_bytes_max=1000, prefix_seconds=0.5),
)


def frames(rng: random.Random, count: int, samples: tuple[FromWorker, ...] | tuple[ToWorker, ...]) -> Iterator[bytes]:
    """So many hostile frames, each made from a sample or from nothing."""
    valid = [msgspec.msgpack.encode(sample) for sample in samples]
    for _ in range(count):
        kind = rng.random()
        if kind < 0.15:
            yield rng.randbytes(rng.randrange(RANDOM_BYTES_MAX))
        elif kind < 0.5:
            yield _broken(rng, rng.choice(valid))
        else:
            yield _with_hostile_value(rng, rng.choice(valid))


def _broken(rng: random.Random, frame: bytes) -> bytes:
    """A valid frame with bytes changed, cut off, repeated, inserted, or buried in arrays."""
    at = rng.randrange(len(frame))
    way = rng.randrange(6)
    if way == 0:
        return frame[:at]
    if way == 1:
        return frame[:at] + rng.randbytes(rng.randrange(1, 9)) + frame[at:]
    if way == 2:
        return frame + frame[at:]
    if way == 3:
        return b"\x91" * rng.randrange(1, NESTING) + frame
    broken = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    return bytes(broken)


def _with_hostile_value(rng: random.Random, frame: bytes) -> bytes:
    """A well-formed message in which values were replaced by hostile ones, often of the right type."""
    tree = msgspec.msgpack.decode(frame)
    for _ in range(rng.randrange(1, 3)):
        _replace_leaf(rng, tree)
    return msgspec.msgpack.encode(tree)


def _replace_leaf(rng: random.Random, tree: list[Any]) -> None:
    branch = tree
    while True:
        at = rng.randrange(len(branch)) if branch else 0
        if branch and isinstance(branch[at], list) and branch[at] and rng.random() < 0.8:
            branch = branch[at]
            continue
        break
    if not branch:
        return
    if rng.random() < 0.1:
        del branch[at]
        return
    alike = [value for value in HOSTILE if type(value) is type(branch[at])]
    branch[at] = copy.deepcopy(rng.choice(alike if alike and rng.random() < 0.8 else HOSTILE))
