"""Commands on their way to the engine."""

import pytest

from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.limits import INBOX_COMMANDS_MAX
from lmx_protocol.messages import Cancel
from lmx_worker.inbox import Inbox


def test_takes_everything_at_once_in_order() -> None:
    """One look empties the inbox, and the next one finds nothing."""
    inbox = Inbox()
    inbox.put(Cancel(request_id="a"))
    inbox.put(Cancel(request_id="b"))

    assert [Cancel(request_id="a"), Cancel(request_id="b")] == inbox.take(None)
    assert [] == inbox.take(0)


def test_flood_is_a_violation() -> None:
    """More commands than an honest supervisor can have under way are not queued."""
    inbox = Inbox()
    for _ in range(INBOX_COMMANDS_MAX):
        inbox.put(Cancel(request_id="a"))

    with pytest.raises(ProtocolViolation, match="wait for the engine"):
        inbox.put(Cancel(request_id="a"))
