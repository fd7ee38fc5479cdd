"""Who is let in."""

import pytest

from lmx_worker.gatekeeper import zap_reply

KEY = bytes(range(32))
REQUEST = [b"1.0", b"7", b"lmx", b"", b"", b"CURVE", KEY]


def test_admits_the_one_key() -> None:
    """The client key of the boot specification is admitted, and the reply names the request."""
    assert [b"1.0", b"7", b"200", b"OK", b"supervisor", b""] == zap_reply(REQUEST, KEY)


@pytest.mark.parametrize(
    "request_frames",
    [
        [*REQUEST[:6], bytes(32)],
        [*REQUEST[:5], b"NULL"],
        [*REQUEST[:5], b"PLAIN", KEY],
        [b"2.0", *REQUEST[1:]],
        [*REQUEST, b"more"],
        [],
    ],
    ids=["other key", "null", "other mechanism", "other version", "too long", "empty"],
)
def test_refuses_everything_else(request_frames: list[bytes]) -> None:
    """Another key, mechanism, version or shape is refused, not answered with an exception."""
    assert b"400" == zap_reply(request_frames, KEY)[2]
