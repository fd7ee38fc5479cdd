"""Preparation of requests beside the engine."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import CountRequest, GenerateRequest
from lmx_worker.backends.base import Prepared, RequestError
from lmx_worker.inbox import Counted, Inbox, PrepareFailed
from lmx_worker.prepare import Preparer
from tests.support.fake_backend import FakeBackend

REQUEST = GenerateRequest(request_id="a", model_id="m", prompt="p")


def test_prepared_request_reaches_the_engine() -> None:
    """What the backend prepared arrives in the inbox."""
    inbox = Inbox()
    Preparer(FakeBackend(), inbox).prepare_one(REQUEST)

    assert [Prepared(request=REQUEST, tokens=[1], max_tokens=10)] == inbox.take(0)


def test_a_count_is_answered_without_preparing() -> None:
    """The engine is told the number, and nothing is ready to be inserted."""
    inbox = Inbox()
    Preparer(FakeBackend(), inbox).prepare_one(CountRequest(request_id="c", model_id="m", of=REQUEST))

    assert [Counted("c", len("p"))] == inbox.take(0)


def test_refusal_keeps_its_code() -> None:
    """A request the backend refuses arrives with the backend's own error."""
    inbox, backend = Inbox(), FakeBackend()
    backend.prepare_error = RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "too long", "messages")
    Preparer(backend, inbox).prepare_one(REQUEST)

    assert [PrepareFailed("a", backend.prepare_error)] == inbox.take(0)


def test_bug_in_the_backend_fails_the_request_only(capfd: pytest.CaptureFixture[str]) -> None:
    """Any other exception is a failed request and a traceback on stderr."""
    inbox, backend = Inbox(), FakeBackend()
    backend.prepare_error = ZeroDivisionError("template")
    Preparer(backend, inbox).prepare_one(REQUEST)
    (command,) = inbox.take(0)

    assert isinstance(command, PrepareFailed)
    assert ErrorCode.GENERATION_ERROR == command.error.code
    assert "ZeroDivisionError" in capfd.readouterr().err
