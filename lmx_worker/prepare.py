"""Templating and tokenizing, on a thread of its own: a long prompt must not stall the streams that run."""

import sys
import threading
import traceback
from collections import deque

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import QUEUE_TOTAL
from lmx_protocol.messages import AnyRequest, CountRequest
from lmx_worker.backends.base import AnyPrepared, Backend, RequestError
from lmx_worker.inbox import Counted, Inbox, PrepareFailed


class Preparer:
    """Takes requests in order, hands each to the engine's inbox prepared, or failed with the reason."""

    def __init__(self, backend: Backend, inbox: Inbox) -> None:
        self._backend = backend
        self._inbox = inbox
        self._requests: deque[AnyRequest] = deque()
        self._changed = threading.Condition()
        self._opened = False

    def has_room(self) -> bool:
        """Whether `submit` may be called."""
        return len(self._requests) < QUEUE_TOTAL

    def submit(self, request: AnyRequest) -> None:
        """Queue a request."""
        assert self.has_room()
        with self._changed:
            self._requests.append(request)
            self._changed.notify()

    def discard(self, request_id: str) -> None:
        """Forget a request that was cancelled. One that is being prepared at this moment still arrives in the inbox."""
        with self._changed:
            self._requests = deque(request for request in self._requests if request.request_id != request_id)

    def open(self) -> None:
        """The model is loaded: start working."""
        with self._changed:
            self._opened = True
            self._changed.notify()

    def run(self) -> None:
        """Work for ever; the thread's body."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._opened and bool(self._requests))
                request = self._requests.popleft()
            self.prepare_one(request)

    def prepare_one(self, request: AnyRequest) -> None:
        """Prepare or count one request and tell the engine. A bug in the backend fails this request, not the worker."""
        try:
            self._inbox.put(self._prepared(request))
        except RequestError as error:
            self._inbox.put(PrepareFailed(request.request_id, error))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            refusal = RequestError(ErrorCode.GENERATION_ERROR, f"the prompt could not be prepared: {error}")
            self._inbox.put(PrepareFailed(request.request_id, refusal))

    def _prepared(self, request: AnyRequest) -> AnyPrepared | Counted:
        if isinstance(request, CountRequest):
            return Counted(request.request_id, self._backend.count_tokens(request.of))
        return self._backend.prepare(request)
