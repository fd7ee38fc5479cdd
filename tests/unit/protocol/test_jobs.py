"""The frames between the supervisor and a job."""

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.jobs import (
    LENGTH,
    FetchModel,
    JobDone,
    JobFailed,
    JobFrames,
    JobPlanned,
    JobProgress,
    JobSpec,
    decode_job_spec,
    job_frame,
)

WORK = FetchModel(
    repo_id="org/a",
    revision=None,
    allow_patterns=("*.gguf",),
    ignore_patterns=(),
    target="/m/org/a",
    staging="/m/.downloads/org@a",
    disk_reserve_bytes=1,
    stall_seconds=1.0,
    attempts_max=1,
    retry_initial_seconds=1.0,
    retry_max_seconds=1.0,
)
MESSAGES = [
    JobPlanned(commit="c", total_bytes=3, missing_bytes=2, free_bytes=9, files=1),
    JobProgress(done_bytes=1, files_done=0, trouble="slow"),
    JobFailed(code=ErrorCode.HUB_UNAVAILABLE, message="gone"),
    JobDone(path="/m/org/a", total_bytes=3),
]


def test_a_specification_arrives_as_it_was_sent() -> None:
    """Everything of it, with the kind of its work."""
    spec = JobSpec(
        protocol=1,
        job="j",
        supervisor_pid=1,
        beat_interval_seconds=1.0,
        c_watchdog_seconds=60.0,
        environment={"HF_TOKEN": "t"},
        work=WORK,
    )

    assert decode_job_spec(job_frame(spec)[LENGTH.size :]) == spec


@pytest.mark.parametrize("piece_bytes", [1, 3, 7, 10_000])
def test_frames_may_come_in_any_pieces(piece_bytes: int) -> None:
    """However the pipe cuts them, the messages are the same, in order, each once."""
    data = b"".join(map(job_frame, MESSAGES))
    frames = JobFrames()
    heard = [message for at in range(0, len(data), piece_bytes) for message in frames.feed(data[at : at + piece_bytes])]

    assert heard == MESSAGES


@pytest.mark.parametrize(
    "data",
    [
        LENGTH.pack(limits.JOB_FRAME_BYTES_MAX + 1),
        LENGTH.pack(3) + b"\xc1\xc1\xc1",
        LENGTH.pack(2) + b"\x91\x01",
        job_frame(JobProgress(done_bytes=1, files_done=0)).replace(b"progress", b"pro\xffress"),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    """Too long, undecodable, of an unknown kind, or with text that is none: a violation, never another exception."""
    with pytest.raises(ProtocolViolation):
        JobFrames().feed(data)


def test_a_negative_count() -> None:
    """A job that lies with a negative number is caught where it is decoded."""
    frame = job_frame(JobProgress(done_bytes=1, files_done=0))
    assert frame.count(b"\x01") == 1
    with pytest.raises(ProtocolViolation):
        JobFrames().feed(frame.replace(b"\x01", b"\xff"))


def test_a_message_that_is_too_large_to_send() -> None:
    """It is refused before it is sent."""
    with pytest.raises(ProtocolViolation):
        job_frame(JobDone(path="x" * limits.JOB_FRAME_BYTES_MAX, total_bytes=1))
