"""The scripted backend: serves `NAME.script.yaml` files (language: `script`) with the manners of a real one.

It batches (one token per running request and step, one prefill chunk per step), has slots, respects pauses and the context
length, and takes real time. Its answers go through the same output as a real model's; sampling has nothing to choose from.
"""

import os
import re
import time
from pathlib import Path

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import DEFAULT_MAX_TOKENS
from lmx_protocol.messages import AnyRequest, EmbedRequest, GenerateRequest, ModelFacts, ModelSpec, RankRequest, Usage
from lmx_protocol.states import ModelTask, RankMethod
from lmx_worker.backends.base import (
    AnyPrepared,
    BackendStats,
    Delta,
    ErrorDelta,
    FinishDelta,
    LoadError,
    LoadProgressCallback,
    Prepared,
    PreparedInputs,
    RequestError,
    generation_only,
)
from lmx_worker.backends.input_prompts import InputEncoder
from lmx_worker.backends.scripted.liar import Liar
from lmx_worker.backends.scripted.plan import FaultPlan, count_life
from lmx_worker.backends.scripted.process_faults import commit, is_process_fault
from lmx_worker.backends.scripted.reading import Reading
from lmx_worker.backends.scripted.run import Run
from lmx_worker.backends.scripted.script import Answer, Fault, Script, Trigger, read_script
from lmx_worker.backends.scripted.utterance import Utterance
from lmx_worker.text.answer_reader import reading_of

BOOT_SCRIPT_VARIABLE = "LMX_SCRIPTED_BOOT"
_VERSION = "1"
_VOCABULARY_SIZE = 100_000
"""Token ids that inputs may be made of."""
_BOOT_TRIGGERS = ("import", "hello")
# Nothing is due for longer than this: look for commands in between.
_NAP_SECONDS = 0.01
_REFUSED = {
    "logit_bias": "has no logits to bias",
    "output": "says what its script says, in whatever form",
    "continues_last_message": "cannot go on from what it did not say",
}
_PLAIN = GenerateRequest(request_id="", model_id="")
_WORD = re.compile(r"\s*\S+|\s+")


class ScriptedBackend:
    """A `Backend`, and the owner of the worker's `sabotage`."""

    def __init__(self) -> None:
        boot = os.environ.get(BOOT_SCRIPT_VARIABLE)
        self._script = read_script(Path(boot)) if boot else Script()
        boot_faults = tuple(fault for fault in self._script.faults if fault.when in _BOOT_TRIGGERS)
        self._plan = FaultPlan(boot_faults, count_life(Path(boot), boot_faults) if boot else 1)
        self.sabotage = Liar(self._reach)
        self._chunk_tokens = 0
        self._prefill_tokens_max = 0
        self._slots = 0
        self._context_length = 0
        self._runs: dict[str, Run | Reading] = {}
        self._failed: list[Delta] = []
        self._ballast = b""
        self._tokens_prefilled = 0
        self._tokens_decoded = 0

    def import_libraries(self) -> str:
        """See `Backend.import_libraries`; there is nothing to import."""
        self._reach("import")
        time.sleep(self._script.load.import_seconds)
        return _VERSION

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        """See `Backend.load`."""
        path = Path(spec.path)
        try:
            self._script = script = read_script(path)
            faults = tuple(fault for fault in script.faults if fault.when not in _BOOT_TRIGGERS)
            self._plan = FaultPlan(faults, count_life(path, faults))
        except FileNotFoundError as error:
            raise LoadError(ErrorCode.MODEL_NOT_FOUND, f"{path} does not exist") from error
        except (OSError, ValueError) as error:
            raise LoadError(ErrorCode.MODEL_PROBE_FAILED, f"{path} is no scripted model: {error}") from error
        self._pretend_to_load(progress)
        self._chunk_tokens = self._prefill_tokens_max = spec.prefill_chunk_tokens
        self._slots = spec.slots
        self._context_length = min(spec.context_length or script.context_length, script.context_length)
        self.sabotage.loaded()
        return ModelFacts(
            backend="scripted",
            backend_version=_VERSION,
            architecture="script",
            context_length=self._context_length,
            train_context_length=script.context_length,
            vocabulary_size=0,
            parameters=0,
            weights_bytes=script.load.bytes,
            slots=spec.slots,
            has_chat_template=True,
            tasks=self._tasks(),
            embedding_dimensions=script.reading.dimensions if ModelTask.EMBED in script.tasks else 0,
            unsupported_fields=tuple(_REFUSED),
            sharing=script.sharing,
        )

    def prepare(self, request: AnyRequest) -> AnyPrepared:
        """See `Backend.prepare`. Tokens are words; their ids are positions."""
        if isinstance(request, EmbedRequest | RankRequest) and not {ModelTask.EMBED, ModelTask.RANK}.isdisjoint(self._tasks()):
            return self._input_encoder().prepare(request)
        if ModelTask.GENERATE not in self._tasks():
            raise RequestError(ErrorCode.NOT_SUPPORTED, "this model does not generate text", "model")
        request = generation_only(request)
        for field, why in _REFUSED.items():
            holder = request if hasattr(request, field) else request.sampling
            if getattr(holder, field) != getattr(_PLAIN if holder is request else _PLAIN.sampling, field):
                raise RequestError(ErrorCode.NOT_SUPPORTED, f"a scripted model {why}", field)
        tokens = self.count_tokens(request)
        room_tokens = self._context_length - tokens
        if room_tokens < 1:
            raise RequestError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"the prompt has {tokens} tokens, and the context is {self._context_length}; shorten the prompt",
                "messages",
            )
        max_tokens = min(request.max_tokens or DEFAULT_MAX_TOKENS, room_tokens)
        reading = reading_of(request, self._script.answer_format if request.messages else None)
        return Prepared(request=request, tokens=range(max(1, tokens)), max_tokens=max_tokens, reading=reading)

    def count_tokens(self, request: GenerateRequest) -> int:
        """See `Backend.count_tokens`."""
        return len(_WORD.findall(_prompt_of(request)))

    def has_room(self) -> bool:
        """See `Backend.has_room`."""
        return len(self._runs) < self._slots

    def insert(self, prepared: AnyPrepared) -> None:
        """See `Backend.insert`."""
        run = self._reading(prepared) if isinstance(prepared, PreparedInputs) else self._run(prepared)
        self._runs[run.request_id] = run
        self._reach("request", run)

    def _reading(self, prepared: PreparedInputs) -> Reading:
        plan = self._script.reading
        method = RankMethod.COSINE if ModelTask.EMBED in self._script.tasks else RankMethod.CROSS_ENCODER
        return Reading(prepared, method, dimensions=plan.dimensions, input_seconds=plan.input_seconds, now=time.monotonic())

    def _run(self, prepared: Prepared) -> Run:
        prompt = _prompt_of(prepared.request)
        answer = next((answer for answer in self._script.answers if answer.contains in prompt), Answer(echo=True))
        pieces = _echo_of(prepared.request) if answer.echo else answer.pieces
        return Run(
            prepared,
            prompt,
            Utterance(prepared.request, answer, pieces),
            token_seconds=answer.token_seconds,
            chunk_seconds=self._script.prefill.chunk_seconds,
            now=time.monotonic(),
        )

    def step(self) -> list[Delta]:
        """See `Backend.step`. Naps for a moment when nothing is due yet, so that it is never deaf for longer."""
        deltas, self._failed = self._failed, []
        runs = [run for run in self._runs.values() if not run.paused]
        now = time.monotonic()
        first_due_at = min((run.due_at for run in runs), default=now)
        if first_due_at > now:
            time.sleep(min(first_due_at - now, _NAP_SECONDS))
            now = time.monotonic()
        has_prefilled = False
        for run in runs:
            if run.due_at > now:
                continue
            if isinstance(run, Reading) or not run.is_prefilling:
                deltas += self._decode(run, now)
            elif not has_prefilled and self._prefill_tokens_max:
                has_prefilled = True
                before = run.tokens_prefilled
                deltas.append(run.prefill(self._prefill_tokens_max, now))
                self._tokens_prefilled += run.tokens_prefilled - before
        return deltas

    def use_threads(self, threads: int) -> None:
        """See `Backend.use_threads`; it computes nothing."""

    def limit_prefill(self, tokens: int | None) -> None:
        """See `Backend.limit_prefill`."""
        self._prefill_tokens_max = self._chunk_tokens if tokens is None else min(tokens, self._chunk_tokens)

    def pause(self, request_id: str) -> None:
        """See `Backend.pause`."""
        self._runs[request_id].paused = True

    def resume(self, request_id: str) -> None:
        """See `Backend.resume`."""
        self._runs[request_id].paused = False

    def remove(self, request_id: str) -> Usage:
        """See `Backend.remove`."""
        run = self._runs.pop(request_id, None)
        if run is None:
            return Usage()
        self._reach("cancel", run)
        return run.usage

    def stats(self) -> BackendStats:
        """See `Backend.stats`."""
        active = len(self._runs)
        return BackendStats(active, self._tokens_prefilled, self._tokens_decoded, kv_used_ratio=active / max(1, self._slots))

    def close(self) -> None:
        """See `Backend.close`."""
        self._ballast = b""

    def _decode(self, run: Run | Reading, now: float) -> list[Delta]:
        self._reach("token", run, number=run.tokens_decoded + 1)
        if run.request_id not in self._runs:
            failed, self._failed = self._failed, []
            return failed
        deltas = run.decode(now)
        self._tokens_decoded += 1
        if isinstance(deltas[-1], FinishDelta):
            del self._runs[run.request_id]
        return deltas

    def _tasks(self) -> tuple[ModelTask, ...]:
        tasks = self._script.tasks
        return (*tasks, ModelTask.RANK) if ModelTask.EMBED in tasks and ModelTask.RANK not in tasks else tasks

    def _input_encoder(self) -> InputEncoder:
        embeds = ModelTask.EMBED in self._script.tasks
        return InputEncoder(
            tokenize=_tokenize,
            pair=None if embeds else lambda query, document: _tokenize(f"{query} {document}"),
            context_length=self._context_length,
            vocabulary_size=_VOCABULARY_SIZE,
            dimensions=self._script.reading.dimensions,
        )

    def _pretend_to_load(self, progress: LoadProgressCallback) -> None:
        plan = self._script.load
        for index in range(plan.callbacks):
            progress("weights", plan.bytes * index // plan.callbacks, plan.bytes)
            if index == plan.callbacks // 2:
                self._reach("load")

            time.sleep(plan.seconds / plan.callbacks)
        if plan.fail is not None:
            raise LoadError(plan.fail, "the script says that this load fails")
        self._ballast = b"\xa5" * plan.ballast_bytes
        progress("weights", plan.bytes, plan.bytes)

    def _reach(self, trigger: Trigger, run: Run | Reading | None = None, *, number: int = 1) -> None:
        for fault in self._plan.due(trigger, prompt=run.prompt if run else "", number=number):
            self._commit(fault, run)

    def _commit(self, fault: Fault, run: Run | Reading | None) -> None:
        if is_process_fault(fault):
            commit(fault)
        elif fault.do == "fail_request":
            assert run is not None
            del self._runs[run.request_id]
            self._failed.append(ErrorDelta(run.request_id, ErrorCode.GENERATION_ERROR, fault.line))
        else:
            self.sabotage.arm(fault.do)


def _tokenize(text: str) -> range:
    return range(len(text.split()))


def _prompt_of(request: GenerateRequest) -> str:
    if request.prompt is not None:
        return request.prompt
    if request.prompt_tokens:
        return " ".join(map(str, request.prompt_tokens))
    return "\n".join(f"{message.role}: {message.content}" for message in request.messages)


def _echo_of(request: GenerateRequest) -> list[str]:
    text = request.messages[-1].content if request.messages else _prompt_of(request)
    return _WORD.findall(text) or ["(nothing)"]
