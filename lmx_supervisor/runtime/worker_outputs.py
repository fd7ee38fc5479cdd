"""What the workers of each model print, for readers that follow it from one incarnation to the next. Bounded; on one loop."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.records import OutputMark, OutputPart
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.stderr_ring import OutputRing


@dataclass(frozen=True, slots=True)
class _Output:
    incarnation: str
    ring: OutputRing


class WorkerOutputs:
    """The output of the newest incarnations of each model; a warm spare's becomes its model's when it gets one."""

    def __init__(self) -> None:
        self._outputs: dict[str, list[_Output]] = {}
        self._readers: set[WorkerOutputReader] = set()
        self.ended = False
        """Whether no worker will print anything any more."""

    def adopt(self, model_id: str, incarnation: str, ring: OutputRing) -> None:
        """From here on this is the output of a worker of that model."""
        outputs = [*self._outputs.pop(model_id, ()), _Output(incarnation, ring)]
        self._outputs[model_id] = outputs[-limits.OUTPUT_INCARNATIONS_KEPT :]
        if len(self._outputs) > limits.OUTPUT_MODELS_MAX:
            del self._outputs[next(iter(self._outputs))]
        ring.on_change = lambda: self._wake(model_id)
        self._wake(model_id)

    def of(self, model_id: str) -> list[_Output]:
        """The kept output of a model's workers, the newest last; empty when it had none lately."""
        return self._outputs.get(model_id, [])

    def reader(self, model_id: str, after: OutputMark | None, strike: Callable[[str], str]) -> "WorkerOutputReader | None":
        """Read what is kept and what comes, or from where a reader was. `strike` removes secrets.

        None when the model had no worker lately. Raises `Refusal` when there are too many readers.
        """
        if not self.of(model_id):
            return None
        if len(self._readers) >= limits.OUTPUT_READERS_MAX:
            text = (
                f"{limits.OUTPUT_READERS_MAX} readers of workers' output are open, which is all there may be; close one first."
            )
            raise Refusal(ErrorCode.OVERLOADED, text)
        reader = WorkerOutputReader(self, model_id, after, strike)
        self._readers.add(reader)
        return reader

    def leave(self, reader: "WorkerOutputReader") -> None:
        """Forget a reader."""
        self._readers.discard(reader)

    def end(self) -> None:
        """Nothing will follow: every reader comes to its end."""
        self.ended = True
        for reader in self._readers:
            reader.wake()

    def _wake(self, model_id: str) -> None:
        for reader in self._readers:
            if reader.model_id == model_id:
                reader.wake()


class WorkerOutputReader:
    """One reader's position. Satisfies `core.records.OutputReader`."""

    def __init__(self, outputs: WorkerOutputs, model_id: str, after: OutputMark | None, strike: Callable[[str], str]) -> None:
        self.model_id = model_id
        self._outputs = outputs
        self._mark = after
        self._strike = strike
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be something to read."""
        self._news.set()

    def read(self) -> list[OutputPart]:
        """What was printed since the last read: whole lines, in order, a bounded number of them."""
        self._news.clear()
        parts: list[OutputPart] = []
        outputs, is_gap = self._unread()
        for output in outputs:
            at = self._mark.end if self._mark is not None and self._mark.incarnation == output.incarnation else 0
            part = _part(output, min(at, output.ring.taken_bytes), self._strike)
            if is_gap:
                part, is_gap = replace(part, lost_bytes=None), False
            if part.lines or part.lost_bytes != 0:
                parts.append(part)
                self._mark = OutputMark(part.incarnation, part.end)
            if not output.ring.ended or len(output.ring.after(part.end)[1]) > 0:
                # More may come of this one; the next one's turn is after that.
                break
        return parts

    def _unread(self) -> tuple[list[_Output], bool]:
        """From the incarnation the reader is at; all that is kept, after a gap, where that one is not known any more."""
        outputs = self._outputs.of(self.model_id)
        if self._mark is None:
            return outputs, False
        known = [number for number, output in enumerate(outputs) if output.incarnation == self._mark.incarnation]
        return (outputs[known[0] :], False) if known else (outputs, True)

    async def wait(self, seconds: float) -> None:
        """Return when there may be something to read or nothing will follow, at the latest after `seconds`."""
        if self._outputs.ended:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    @property
    def ended(self) -> bool:
        """Whether nothing will follow what was read."""
        return self._outputs.ended

    def close(self) -> None:
        """Make room for another reader."""
        self._outputs.leave(self)


def _part(output: _Output, at: int, strike: Callable[[str], str]) -> OutputPart:
    """The whole lines after `at`; at the end of the output, and where one is too long, what there is of a line too."""
    lost_bytes, data = output.ring.after(at)
    start = at + lost_bytes
    whole = len(data) if output.ring.ended else data.rfind(b"\n") + 1
    if whole == 0 and len(data) > limits.OUTPUT_LINE_BYTES_MAX:
        whole = len(data)
    lines: list[str] = []
    end = 0
    while end < whole and len(lines) < limits.OUTPUT_LINES_PER_READ_MAX:
        newline = data.find(b"\n", end, min(whole, end + limits.OUTPUT_LINE_BYTES_MAX))
        stop = newline if newline >= 0 else min(whole, end + limits.OUTPUT_LINE_BYTES_MAX)
        lines.append(strike(data[end:stop].decode("utf-8", "replace")))
        end = stop + (newline >= 0)
    return OutputPart(output.incarnation, tuple(lines), start + end, lost_bytes)
