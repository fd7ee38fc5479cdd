"""What happens at once, on the main thread, when a message of the supervisor arrives; the rest is the engine's."""

import threading
from collections.abc import Callable

from lmx_protocol.errors import ErrorCode, ExitCode, ProtocolViolation
from lmx_protocol.limits import SHUTDOWN_WORK_RATIO
from lmx_protocol.messages import Begin, Failed, Goodbye, Load, Shutdown, StepEvents, ToWorker
from lmx_protocol.states import WorkerPhase
from lmx_worker.inbox import Inbox
from lmx_worker.outbox import Outbox
from lmx_worker.prepare import Preparer
from lmx_worker.vitals import Vitals


def call_after(seconds: float, act: Callable[[], None]) -> None:
    """Call from a thread of its own once so much time has passed, whatever the other threads do meanwhile."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


class Dispatcher:
    """Routes messages. Its `handle` never blocks."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        outbox: Outbox,
        preparer: Preparer,
        vitals: Vitals,
        show_title: Callable[[str], None],
        after: Callable[[float, Callable[[], None]], None] = call_after,
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._preparer = preparer
        self._vitals = vitals
        self._show_title = show_title
        self._after = after
        self._has_order = False
        self._is_stopping = False

    def handle(self, message: ToWorker) -> None:
        """Take one message. Raises `ProtocolViolation` when it is not allowed now."""
        match message:
            case Load():
                if self._has_order:
                    raise ProtocolViolation("a worker is given a model once, and this one has its model")
                self._has_order = True
                self._show_title(message.model.model_id)
                self._inbox.put(message)
            case Begin():
                self._begin(message)
            case Shutdown():
                self._shutdown(message)
            case _:
                self._inbox.put(message)

    def _begin(self, begin: Begin) -> None:
        if self._is_stopping:
            self._refuse(begin, ErrorCode.SHUTTING_DOWN, "this model is being stopped")
        elif not self._preparer.has_room():
            self._refuse(begin, ErrorCode.OVERLOADED, "the model has too many requests; try again later")
        else:
            # In this order: the engine must know the request before its prepared form can arrive.
            self._inbox.put(begin)
            self._preparer.submit(begin.request)

    def _refuse(self, begin: Begin, code: ErrorCode, message: str) -> None:
        self._outbox.post(StepEvents(events=(Failed(request_id=begin.request.request_id, code=code, message=message),)))

    def _shutdown(self, shutdown: Shutdown) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        self._inbox.put(shutdown)
        # An import or a load cannot be interrupted, and there is no answer to finish: leave without the engine. A step that
        # does not end gets most of the grace, because a backend that closes in order gives its memory back sooner.
        is_interruptible = self._vitals.phase not in (WorkerPhase.IMPORTING, WorkerPhase.LOADING)
        patience_seconds = shutdown.grace_seconds * SHUTDOWN_WORK_RATIO if is_interruptible else 0.0
        self._after(patience_seconds, self._leave_without_engine)

    def _leave_without_engine(self) -> None:
        self._outbox.post(Goodbye(reason="shutdown"))
        self._outbox.depart(ExitCode.OK)
