"""States, versions and numbers agree with each other."""

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ExitCode
from lmx_protocol.states import READINESS, Readiness, WorkerState
from lmx_protocol.version import PROTOCOL_VERSION, is_compatible


def test_only_the_same_version_is_spoken() -> None:
    """Messages are positional: one version off is a different language."""
    assert is_compatible(PROTOCOL_VERSION)
    assert not is_compatible(PROTOCOL_VERSION + 1)
    assert not is_compatible(PROTOCOL_VERSION - 1)


def test_every_state_has_a_public_name() -> None:
    """A new state cannot be forgotten in the projection, and only a served one is routable."""
    assert set(READINESS) == set(WorkerState)
    routable = {state for state, readiness in READINESS.items() if readiness is Readiness.ROUTABLE}
    assert routable == {WorkerState.READY, WorkerState.BUSY}


def test_codes_are_unique() -> None:
    """No two meanings share a code, neither for clients nor in an exit status."""
    for codes in (ErrorCode, ExitCode):
        assert len({code.value for code in codes}) == len(codes.__members__)


def test_a_worker_is_suspected_before_it_is_given_up() -> None:
    """Each patience is longer than the one before it."""
    assert limits.BEAT_INTERVAL_SECONDS < limits.BEAT_SUSPECT_SECONDS < limits.BEAT_DEAD_SECONDS < limits.C_WATCHDOG_SECONDS
    assert limits.LOAD_STALL_SUSPECT_SECONDS < limits.LOAD_STALL_SECONDS < limits.LOAD_TOTAL_SECONDS
    assert limits.STOP_GRACE_SECONDS < limits.STOP_GRACE_LARGE_SECONDS
    assert limits.RESTART_INITIAL_SECONDS < limits.RESTART_MAX_SECONDS < limits.RESTART_WINDOW_SECONDS
    assert 0 < limits.MEMORY_SOFT_RATIO < limits.MEMORY_HARD_RATIO < 1


def test_every_accepted_request_fits_a_frame() -> None:
    """A body at its limit becomes a message below the limit of the socket, and one credit's text does so upwards."""
    assert limits.BODY_BYTES_MAX < limits.FRAME_BYTES_MAX_DOWN
    assert limits.CREDIT_BYTES < limits.FRAME_BYTES_MAX_UP
    assert limits.QUEUE_PER_MODEL <= limits.QUEUE_TOTAL <= limits.HTTP_CONNECTIONS_MAX


def test_every_number_is_a_positive_number() -> None:
    """A limit of zero would be a switch, and none of these is one, except how long a closing socket lingers."""
    numbers = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert numbers
    assert [name for name, value in numbers.items() if not value > 0] == ["ZMQ_LINGER_MILLISECONDS"]
