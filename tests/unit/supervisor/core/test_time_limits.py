"""Which of an answer's time limits is over first, and what its client is told."""

import pytest

from lmx_protocol.messages import GenerateRequest
from lmx_supervisor.core.claims import Claim
from lmx_supervisor.core.ledger import Entry
from lmx_supervisor.core.time_limits import time_limit_of

OWN = "The answer was not ready within the 30 s that its request allowed; ask for less, or allow more (Request-Timeout-Ms)."
OURS = (
    "The answer was not ready within 20 s, which is all that the server allows one; "
    "ask for less, or have models.inference_timeout_sec raised."
)


@pytest.mark.parametrize(
    ("own_seconds", "waited_seconds", "answer_seconds", "expected"),
    [
        (None, 0.0, None, None),
        (30.0, 0.0, None, (130.0, OWN)),
        (None, 0.0, 20.0, (120.0, OURS)),
        (None, 50.0, 20.0, (170.0, OURS)),
        (30.0, 0.0, 20.0, (120.0, OURS)),
        (30.0, 15.0, 20.0, (130.0, OWN)),
    ],
)
def test_the_limit_that_is_over_first_counts(
    own_seconds: float | None, waited_seconds: float, answer_seconds: float | None, expected: tuple[float, str] | None
) -> None:
    """The client's from its arrival, the service's from the lease; neither, one of them, or both."""
    request = GenerateRequest(request_id="r", model_id="m", prompt="p")
    entry = Entry(request, "m", arrived_at=100.0, claim=Claim(time_limit_seconds=own_seconds), leased_at=100.0 + waited_seconds)
    limit = time_limit_of(entry, answer_seconds)

    assert (None if limit is None else (limit.ends_by, limit.text)) == expected


def test_the_canary_has_none() -> None:
    """It is no client's answer; how long it may take is another key."""
    request = GenerateRequest(request_id="canary", model_id="m", prompt="p")

    assert time_limit_of(Entry(request, "m", arrived_at=0.0, internal=True), 20.0) is None
