"""Requests for embeddings and rankings inside a backend: whose inputs are computed next, and what becomes of the results. Pure.

A step computes some whole inputs, up to a budget of tokens, the requests taking turns input by input; or it computes one input
that is longer than the budget, a piece per step where the model can be cut like that, else at once. Either way a step is short,
so that running streams, cancels and heartbeats do not wait for a request of a thousand inputs.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Timing, Usage
from lmx_protocol.states import FinishReason, RankMethod
from lmx_worker.backends.base import Delta, ErrorDelta, FinishDelta, PrefillDelta, PreparedInputs, ResultDelta
from lmx_worker.backends.results import Results, results_for
from lmx_worker.backends.vectors import NotANumberError, Vector


@dataclass(slots=True, eq=False)
class InputJob:
    """One request: how many of its inputs were handed out, and how much of them is computed."""

    prepared: PreparedInputs
    results: Results
    inserted_at: float
    total_tokens: int
    next_input: int = 0
    offset: int = 0
    """Tokens of the next input that are computed already."""
    done_tokens: int = 0
    done_inputs: int = 0

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.prepared.request.request_id


@dataclass(frozen=True, slots=True)
class Piece:
    """What to compute of one input in this step: all of it, or the tokens from `start`."""

    job: InputJob
    tokens: Sequence[int]
    start: int
    completes: bool
    """The input's result is known after this."""


class InputJobs:
    """The requests of one model. A step is `take`, computing, `done`."""

    def __init__(
        self,
        *,
        budget_tokens: int,
        inputs_max: int,
        cuts: bool,
        pads: bool = False,
        ranks_by: RankMethod = RankMethod.COSINE,
    ) -> None:
        """`cuts`: an input may be computed in pieces; `pads`: every input of a step costs as much as the longest."""
        self._budget_tokens = budget_tokens
        self._inputs_max = inputs_max
        self._cuts = cuts
        self._pads = pads
        self._ranks_by = ranks_by
        self._jobs: dict[str, InputJob] = {}
        self._turns: deque[InputJob] = deque()
        """The jobs with inputs left to hand out; the first one is next."""
        self.tokens_done = 0
        """Since the load."""

    def __len__(self) -> int:
        return len(self._jobs)

    def insert(self, prepared: PreparedInputs, now: float) -> None:
        """Take a request in."""
        results = results_for(prepared.request, self._ranks_by)
        job = InputJob(prepared, results, inserted_at=now, total_tokens=sum(map(len, prepared.inputs)))
        self._jobs[job.request_id] = job
        self._turns.append(job)

    def remove(self, request_id: str) -> Usage | None:
        """Forget a request and say what it used; None: it is not here."""
        job = self._jobs.get(request_id)
        if job is None:
            return None
        self._forget(job)
        return Usage(prompt_tokens=job.done_tokens)

    def take(self) -> list[Piece]:
        """What to compute now; none when there is nothing to do."""
        if not self._turns:
            return []
        first = self._turns[0]
        tokens = first.prepared.inputs[first.next_input]
        if self._cuts and len(tokens) > self._budget_tokens:
            return [self._cut(first, tokens)]
        pieces: list[Piece] = []
        longest = total = 0
        while self._turns and len(pieces) < self._inputs_max:
            job = self._turns[0]
            tokens = job.prepared.inputs[job.next_input]
            longest, total = max(longest, len(tokens)), total + len(tokens)
            cost = longest * (len(pieces) + 1) if self._pads else total
            if pieces and cost > self._budget_tokens:
                break
            pieces.append(Piece(job, tokens, 0, completes=True))
            self._handed_out(job)
        return pieces

    def done(self, pieces: Sequence[Piece], vectors: Sequence[Vector], now: float) -> list[Delta]:
        """After computing: one vector for every piece that completes an input, in the same order."""
        fresh: dict[str, list[Vector]] = {}
        completed = iter(vectors)
        for piece in pieces:
            piece.job.done_tokens += len(piece.tokens)
            self.tokens_done += len(piece.tokens)
            of_job = fresh.setdefault(piece.job.request_id, [])
            if piece.completes:
                piece.job.done_inputs += 1
                of_job.append(next(completed))
        return [delta for request_id, own in fresh.items() for delta in self._tell(self._jobs[request_id], own, now)]

    def _cut(self, job: InputJob, tokens: Sequence[int]) -> Piece:
        start = job.offset
        job.offset = min(start + self._budget_tokens, len(tokens))
        completes = job.offset == len(tokens)
        piece = Piece(job, tokens[start : job.offset], start, completes)
        if completes:
            self._handed_out(job)
        return piece

    def _handed_out(self, job: InputJob) -> None:
        job.next_input += 1
        job.offset = 0
        self._turns.popleft()
        if job.next_input < len(job.prepared.inputs):
            self._turns.append(job)

    def _tell(self, job: InputJob, vectors: Sequence[Vector], now: float) -> list[Delta]:
        deltas: list[Delta] = [PrefillDelta(job.request_id, job.done_tokens, job.total_tokens, cached_tokens=0)]
        if not vectors:
            return deltas
        try:
            deltas += [ResultDelta(job.request_id, result) for result in job.results.of(vectors)]
        except NotANumberError:
            self._forget(job)
            message = "The model computed no finite numbers for this request."
            return [ErrorDelta(job.request_id, ErrorCode.GENERATION_ERROR, message)]
        if job.done_inputs == len(job.prepared.inputs):
            self._forget(job)
            usage = Usage(prompt_tokens=job.done_tokens)
            timing = Timing(prefill_seconds=now - job.inserted_at)
            deltas.append(FinishDelta(job.request_id, FinishReason.STOP, usage, timing))
        return deltas

    def _forget(self, job: InputJob) -> None:
        del self._jobs[job.request_id]
        if job in self._turns:
            self._turns.remove(job)
