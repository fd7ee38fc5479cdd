"""What an open answer tells the one who measures it."""

from lmx_protocol import limits
from lmx_protocol.messages import AnyRequestEvent, Cancelled, Text
from lmx_supervisor.runtime.answers import OpenAnswer


class Notebook:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    def leased(self) -> None:
        self.notes.append("leased")

    def delivered(self, event: AnyRequestEvent) -> None:
        self.notes.append(event)

    def cancelled(self) -> None:
        self.notes.append("cancelled")


async def test_the_watch_hears_of_everything_when_it_happens() -> None:
    """Lease, events and cancel are told at once, without anybody reading; a cancel after the end is none."""
    notebook = Notebook()
    answer = OpenAnswer("r", on_cancel=lambda _: None, on_credit=lambda _: None, watch=notebook)
    text, end = Text(request_id="r", text="x"), Cancelled(request_id="r")
    answer.leased(limits.CREDIT_FRAMES, limits.CREDIT_BYTES)
    answer.deliver(text)
    answer.cancel()
    answer.deliver(end)
    answer.cancel()
    assert notebook.notes == ["leased", text, "cancelled", end]
