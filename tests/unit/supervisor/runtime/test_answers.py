"""Credit and the one end of an open answer."""

import asyncio

import pytest

from lmx_protocol import limits
from lmx_protocol.messages import Cancelled, Credit, Text
from lmx_supervisor.runtime.answers import CreditExceededError, OpenAnswer


def _answer() -> tuple[OpenAnswer, list[Credit], list[str]]:
    grants: list[Credit] = []
    cancels: list[str] = []
    answer = OpenAnswer("r", on_cancel=cancels.append, on_credit=grants.append)
    answer.leased(limits.CREDIT_FRAMES, limits.CREDIT_BYTES)
    return answer, grants, cancels


def _text(text: str = "x") -> Text:
    return Text(request_id="r", seq=0, text=text)


async def test_credit_is_granted_again_only_for_what_was_written() -> None:
    """Reading an event says that the one before it was written; half the credit written grants it anew."""
    answer, grants, _ = _answer()
    for _ in range(limits.CREDIT_FRAMES):
        answer.deliver(_text())
    for _ in range(limits.CREDIT_FRAMES // 2):
        await answer.next_event()
    assert grants == []
    await answer.next_event()

    assert grants == [Credit(request_id="r", frames=limits.CREDIT_FRAMES // 2, bytes=limits.CREDIT_FRAMES // 2)]


async def test_more_text_than_the_credit_is_an_error() -> None:
    """A worker that ignores its credit cannot fill our memory."""
    answer, _, _ = _answer()
    for _ in range(limits.CREDIT_FRAMES):
        answer.deliver(_text())
    with pytest.raises(CreditExceededError):
        answer.deliver(_text())


async def test_more_bytes_than_the_credit_is_an_error() -> None:
    """Few but huge events are bounded too."""
    answer, _, _ = _answer()
    answer.deliver(_text("x" * limits.CREDIT_BYTES))
    answer.deliver(_text("x" * limits.CREDIT_BYTES))
    with pytest.raises(CreditExceededError):
        answer.deliver(_text("x"))


async def test_a_reader_that_came_first_gets_the_event_when_it_arrives() -> None:
    """Waiting costs nothing but the wait."""
    answer, _, _ = _answer()
    reader = asyncio.create_task(answer.next_event())
    await asyncio.sleep(0)
    answer.deliver(_text("late"))

    assert await reader == _text("late")


async def test_cancelling_after_the_end_asks_for_nothing() -> None:
    """The core has forgotten the request by then."""
    answer, _, cancels = _answer()
    answer.cancel()
    answer.deliver(Cancelled(request_id="r"))
    answer.cancel()

    assert cancels == ["r"]
