"""What counts as an error worth showing, and how long it is remembered."""

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.observe.event_bus import EventBus
from lmx_supervisor.observe.event_names import REQUEST_COMPLETED
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.observe.recent_errors import RecentErrors


def remembering() -> tuple[EventBus, RecentErrors]:
    """A bus with one secret, and what listens to it."""
    bus, errors = EventBus(Redaction(("hunter2",)), unix_now=lambda: 7.0), RecentErrors()
    bus.listen(errors.take)
    return bus, errors


def test_warnings_and_failed_requests_are_errors() -> None:
    """The newest first, in the words they were told in, without secrets."""
    bus, errors = remembering()
    bus.take(Tell("worker_exited", {"model_id": "m", "reason": "oom", "text": "no hunter2 memory"}, alarming=True))
    bus.take(Tell(REQUEST_COMPLETED, {"model_id": "m", "outcome": "failed", "code": ErrorCode.WORKER_LOST}))
    newest, oldest = errors.newest_first()

    assert ("request_completed", "worker_lost", "request completed") == (newest.kind, newest.code, newest.text)
    assert ("m", "oom", "no [redacted] memory", 7.0) == (oldest.model_id, oldest.code, oldest.text, oldest.at_unix_seconds)


def test_what_is_nobodys_fault_is_none() -> None:
    """Ordinary news, answered and cancelled requests, and clients' mistakes are left out."""
    bus, errors = remembering()
    bus.take(Tell("model_loaded", {"model_id": "m"}))
    for outcome, code in (("finished", None), ("cancelled", None), ("failed", ErrorCode.CONTEXT_LENGTH_EXCEEDED)):
        bus.take(Tell(REQUEST_COMPLETED, {"model_id": "m", "outcome": outcome, "code": code}))

    assert [] == errors.newest_first()


def test_memory_is_bounded() -> None:
    """Only the newest stay, none longer than a line or two."""
    bus, errors = remembering()
    for number in range(limits.RECENT_ERRORS_MAX + 5):
        bus.take(Tell("state_write_failed", {"text": f"{number} " + "x" * 5000}, alarming=True))
    kept = errors.newest_first()

    assert limits.RECENT_ERRORS_MAX == len(kept)
    assert kept[0].text.startswith(str(limits.RECENT_ERRORS_MAX + 4))
    assert limits.RECENT_ERROR_CHARACTERS_MAX == max(len(error.text) for error in kept)
