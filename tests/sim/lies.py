"""The words of a lying worker: messages that no worker may say at that moment."""

from lmx_protocol.messages import Finished, FromWorker, Hello, Loaded, StepEvents, Text
from lmx_protocol.version import PROTOCOL_VERSION
from tests.sim.fates import Lie
from tests.sim.job import Job


def false_words(lie: Lie, name: str, *, job: Job | None, loaded: Loaded | None, last_ended: Finished | None) -> FromWorker:
    """A lie of that kind by worker `name`, or about a stranger's request when there is nothing yet to lie about."""
    if lie is Lie.SECOND_LOADED and loaded is not None:
        return loaded
    if lie in (Lie.SECOND_HELLO, Lie.FOREIGN_HELLO):
        who = name if lie is Lie.SECOND_HELLO else "another"
        return Hello(protocol=PROTOCOL_VERSION, incarnation=who, pid=1, backend="llamacpp")
    if lie is Lie.GAP and job is not None:
        return _text(job.request_id, job.seq + 1)
    if lie is Lie.REPEAT and job is not None and job.seq > 0:
        return _text(job.request_id, job.seq - 1)
    if lie is Lie.AFTER_END and last_ended is not None:
        return StepEvents(events=(last_ended,))
    return _text("stranger", 0)


def _text(request_id: str, seq: int) -> StepEvents:
    return StepEvents(events=(Text(request_id=request_id, seq=seq, text="?"),))
