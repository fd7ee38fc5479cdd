"""A real worker process, from its first message to its exit status, spoken to as the supervisor does it."""

import os
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from lmx_protocol.errors import ErrorCode, ExitCode
from lmx_protocol.limits import STALLED_FRAMES_MAX
from lmx_protocol.messages import (
    Beat,
    Cancel,
    Cancelled,
    Credit,
    Failed,
    Finished,
    Goodbye,
    Hello,
    Imported,
    Loaded,
    LoadFailed,
    LoadProgress,
    Prefill,
    Shutdown,
    StepEvents,
    Text,
)
from lmx_protocol.states import WorkerPhase
from lmx_protocol.version import PROTOCOL_VERSION
from tests.support.worker_harness import WorkerHarness, connect

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux mechanism")

SLOW = "answers: [{pieces: ['tick '], tokens: 10000, token_seconds: 0.005}]"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Where a test writes its model."""
    return tmp_path / "m.script.yaml"


def loaded(script: Path, text: str, **options: int) -> WorkerHarness:
    """A worker that has loaded a script."""
    script.write_text(text)
    worker = WorkerHarness()
    try:
        worker.load(script, **options)
    except BaseException:
        worker.close()
        raise
    return worker


def text_of(worker: WorkerHarness, request_id: str) -> str:
    """All text received so far for a request."""
    return "".join(event.text for event in worker.events_of(request_id) if isinstance(event, Text))


def test_whole_life_in_order(script: Path) -> None:
    """Hello, Imported, progress, Loaded, an answer without gaps, Goodbye, exit 0; stderr and crash file stay empty."""
    with loaded(script, "answers: [{pieces: [The, ' end', .], token_seconds: 0.03}]") as worker:
        worker.generate("r")
        end = worker.wait_for_end("r")
        worker.send(Shutdown(grace_seconds=5))

        assert 0 == worker.wait_exit()

        events = worker.events_of("r")
        # Once each: how often progress is told depends on how long the load took.
        kinds = list(dict.fromkeys(type(message) for message in worker.messages if not isinstance(message, Beat | StepEvents)))
        assert [Hello, Imported, LoadProgress, Loaded, Goodbye] == kinds
        assert isinstance(end, Finished) and end.usage.completion_tokens == 3
        assert [Prefill, Text, Text, Text, Finished] == [type(event) for event in events]
        assert list(range(5)) == [event.seq for event in events]
        assert "The end." == text_of(worker, "r")
        assert (b"", b"") == (worker.stderr, worker.crash_file.read_bytes())


def test_hello_says_who_it_is(script: Path) -> None:
    """The first message carries the protocol, the incarnation, the pid and the backend."""
    with WorkerHarness() as worker:
        hello = worker.receive()

        assert Hello(protocol=PROTOCOL_VERSION, incarnation=worker.incarnation, pid=worker.process.pid, backend="scripted") == (
            hello
        )


@linux_only
def test_shows_as_its_model_and_is_its_own_session(script: Path) -> None:
    """`ps` shows the model and the incarnation, never the predecessor's name; Ctrl-C in our terminal cannot reach it."""
    with WorkerHarness() as worker:
        worker.expect(Imported)
        command_line = Path(f"/proc/{worker.process.pid}/cmdline")
        spare = command_line.read_bytes()
        script.write_text("{}")
        worker.load(script)
        serving = command_line.read_bytes()

        assert f"lmx-worker (spare scripted) [{worker.incarnation}]".encode() in spare
        assert f"lmx-worker scripted-model [{worker.incarnation}]".encode() in serving
        assert b"opta_lmx" not in serving
        assert worker.process.pid == os.getsid(worker.process.pid)
        assert "Max core file size        0 " in Path(f"/proc/{worker.process.pid}/limits").read_text()


def test_socket_is_private(script: Path) -> None:
    """The socket file can be opened by its owner only."""
    with WorkerHarness() as worker:
        worker.expect(Hello)
        mode = (worker.run_dir / "s").stat().st_mode

        assert 0 == mode & (stat.S_IRWXG | stat.S_IRWXO)


def test_another_key_is_not_admitted(script: Path) -> None:
    """A client that knows the server's key but not the admitted client key gets nothing, while the real one is served."""
    with WorkerHarness() as worker:
        worker.expect(Hello)
        context = zmq.Context()
        stranger = connect(context, worker.spec, *zmq.curve_keypair())
        monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            assert monitor.poll(10_000)
            event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
            assert zmq.EVENT_HANDSHAKE_FAILED_AUTH == event
            assert not stranger.poll(100)
        finally:
            stranger.disable_monitor()
            monitor.close(linger=0)
            stranger.close(linger=0)
            context.term()
        script.write_text("{}")
        worker.load(script)


def test_beats_tell_the_truth(script: Path) -> None:
    """Beats are numbered, show what the engine does, and count its steps, tokens and memory."""
    with loaded(script, SLOW) as worker:
        worker.generate("r")
        worker.expect(StepEvents)
        first, second = worker.expect(Beat), worker.expect(Beat)
        while second.phase != WorkerPhase.GENERATING or second.tokens_decoded == 0:
            first, second = second, worker.expect(Beat)

        assert second.seq == first.seq + 1
        assert second.steps > first.steps
        assert (1, 0) == (second.active, second.waiting)
        assert 5 * 1024**2 < second.footprint_bytes < 500 * 1024**2


def test_cancel_frees_the_slot(script: Path) -> None:
    """With one slot, cancelling the running request ends it with its usage and lets the waiting one in."""
    with loaded(script, SLOW, slots=1) as worker:
        worker.generate("a")
        worker.generate("b")
        worker.expect(StepEvents)
        worker.send(Cancel(request_id="a"))
        end = worker.wait_for_end("a")
        while not worker.events_of("b"):
            worker.expect(StepEvents)

        assert isinstance(end, Cancelled) and end.usage.prompt_tokens == 3

        worker.send(Cancel(request_id="b"))
        worker.send(Cancel(request_id="never-heard-of"))

        assert isinstance(worker.wait_for_end("b"), Cancelled)


def test_credit_bounds_what_is_sent_and_a_grant_releases_it(script: Path) -> None:
    """Out of credit the worker sends nothing more of that request and pauses it; others run on; a grant resumes it."""
    text = "answers: [{pieces: [x], tokens: 300, token_seconds: 0.0}]"
    with loaded(script, text) as worker:
        worker.generate("slow", credit_frames=2)
        worker.generate("fast")

        assert isinstance(worker.wait_for_end("fast"), Finished)

        while worker.expect(Beat).phase == WorkerPhase.GENERATING:
            pass
        texts = [event for event in worker.events_of("slow") if isinstance(event, Text)]
        assert 2 == len(texts)

        worker.send(Credit(request_id="slow", frames=STALLED_FRAMES_MAX * 2, bytes=10_000))

        assert isinstance(worker.wait_for_end("slow"), Finished)
        assert "x" * 300 == text_of(worker, "slow")


def test_streams_of_a_batch_are_each_complete(script: Path) -> None:
    """Eight requests together: every stream has all of its text, in order, without a gap."""
    with loaded(script, "answers: [{echo: true, token_seconds: 0.002}]", slots=4) as worker:
        for index in range(8):
            worker.generate(str(index), prompt=f"word{index} " * 30)
        for index in range(8):
            worker.wait_for_end(str(index))
            events = worker.events_of(str(index))

            assert f"word{index} " * 30 == text_of(worker, str(index))
            assert list(range(len(events))) == [event.seq for event in events]


def test_failed_load_says_why_and_exits(script: Path) -> None:
    """A file that is no model: LoadFailed with code and reason, Goodbye, the exit status for bad models."""
    script.write_text("nonsense: true")
    with WorkerHarness() as worker:
        worker.send_load(script)
        failed = worker.expect(LoadFailed)

        assert ErrorCode.MODEL_PROBE_FAILED == failed.code and "nonsense" in failed.message
        assert ExitCode.BAD_MODEL == worker.wait_exit()
        assert isinstance(worker.messages[-1], Goodbye)


def test_unknown_backend_is_refused_after_hello() -> None:
    """A backend this installation does not have is a configuration error, said on the wire."""
    with WorkerHarness(backend="abacus") as worker:
        assert ErrorCode.MODEL_UNSUPPORTED_BACKEND == worker.expect(LoadFailed).code
        assert ExitCode.CONFIG == worker.wait_exit()
        assert isinstance(worker.messages[0], Hello)


def test_shutdown_while_generating_cancels(script: Path) -> None:
    """What runs ends as cancelled before Goodbye, exit 0."""
    with loaded(script, SLOW) as worker:
        worker.generate("r")
        worker.expect(StepEvents)
        worker.send(Shutdown(grace_seconds=5))

        assert 0 == worker.wait_exit()
        assert isinstance(worker.events_of("r")[-1], Cancelled)
        assert isinstance(worker.messages[-1], Goodbye)


def test_shutdown_during_a_load_does_not_wait_for_it(script: Path) -> None:
    """A load of a minute is left behind at once."""
    script.write_text("load: {seconds: 60, callbacks: 600}")
    with WorkerHarness() as worker:
        worker.send_load(script)
        worker.expect(LoadProgress)
        while worker.expect(Beat).phase != WorkerPhase.LOADING:
            pass
        worker.send(Shutdown(grace_seconds=30))

        assert 0 == worker.wait_exit(10)


def test_shutdown_with_a_stuck_engine_keeps_the_grace(script: Path) -> None:
    """An engine that never comes back costs most of the grace, not more."""
    with loaded(script, "faults: [{when: request, do: stall}]") as worker:
        worker.generate("r")
        while worker.expect(Beat).phase != WorkerPhase.GENERATING:
            pass
        started_at = time.monotonic()
        worker.send(Shutdown(grace_seconds=1))

        assert 0 == worker.wait_exit()
        assert time.monotonic() - started_at < 2
        assert Goodbye(reason="shutdown") == worker.messages[-1]


@pytest.mark.parametrize("state", ["spare", "loading", "generating", "stuck"])
def test_supervisor_gone_means_exit(script: Path, state: str) -> None:
    """When the life pipe ends the worker leaves at once, whatever it is doing."""
    script.write_text(
        {
            "spare": "{}",
            "loading": "load: {seconds: 60}",
            "generating": SLOW,
            "stuck": "faults: [{when: request, do: stall}]",
        }[state]
    )
    with WorkerHarness() as worker:
        worker.expect(Imported)
        if state == "loading":
            worker.send_load(script)
            worker.expect(LoadProgress)
        elif state != "spare":
            worker.load(script)
            worker.generate("r")
            while worker.expect(Beat).phase != WorkerPhase.GENERATING:
                pass
        worker.close_life_pipe()

        assert ExitCode.PARENT_GONE == worker.wait_exit(2)


@linux_only
def test_killed_supervisor_takes_a_stuck_worker_along(script: Path) -> None:
    """SIGKILL of the supervisor ends even a worker that holds its GIL for ever: the kernel does it."""
    script.write_text("faults: [{when: request, do: hold_gil}]")
    supervisor = f"""
import sys, time
from pathlib import Path
from tests.support.worker_harness import WorkerHarness
from lmx_protocol.messages import Beat
worker = WorkerHarness()
worker.load(Path({str(script)!r}))
worker.generate("r")
while worker.receive(0.5) is not None: pass
print(worker.process.pid, worker.run_dir, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, run_dir = process.stdout.readline().split()
    watched = os.pidfd_open(int(pid))
    process.kill()
    process.wait()
    process.stdout.close()
    poller = select.poll()
    poller.register(watched, select.POLLIN)
    has_ended = bool(poller.poll(2000))
    os.close(watched)
    for name in Path(run_dir).iterdir():
        name.unlink()
    Path(run_dir).rmdir()

    assert has_ended


def test_only_the_supervisor_stops_it(script: Path) -> None:
    """SIGTERM and SIGINT do not end a worker whose supervisor lives: a stream goes on and the stop message still works."""
    with loaded(script, SLOW) as worker:
        worker.generate("r")
        worker.expect(StepEvents)
        os.killpg(worker.process.pid, signal.SIGTERM)
        os.killpg(worker.process.pid, signal.SIGINT)
        for _ in range(5):
            worker.expect(StepEvents)
        worker.send(Shutdown(grace_seconds=5))

        assert 0 == worker.wait_exit()


def test_abort_leaves_every_stack(script: Path) -> None:
    """SIGABRT, as the hang ladder sends it, ends the worker and leaves the stacks of its threads in the crash file."""
    with loaded(script, "faults: [{when: request, do: stall}]") as worker:
        worker.generate("r")
        while worker.expect(Beat).phase != WorkerPhase.GENERATING:
            pass
        os.kill(worker.process.pid, signal.SIGABRT)

        assert -signal.SIGABRT == worker.wait_exit()
        crash = worker.crash_file.read_text()
        assert "Fatal Python error: Aborted" in crash
        assert "process_faults.py" in crash and "in _stall" in crash
        assert "channel.py" in crash


def test_watchdog_ends_a_worker_with_a_stuck_gil(script: Path) -> None:
    """No beat for the watchdog's time: the process leaves by itself, and the crash file begins with the reason."""
    script.write_text("faults: [{when: request, do: hold_gil}]")
    with WorkerHarness(c_watchdog_seconds=1.0) as worker:
        worker.load(script)
        worker.generate("r")

        assert 1 == worker.wait_exit(10)
        assert worker.crash_file.read_text().startswith("Timeout (")


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ("exit, code: 9", 9),
        ("sys_exit, code: 4", 4),
        ("segfault", -signal.SIGSEGV),
        ("abort, line: out of device memory", -signal.SIGABRT),
        ("kill", -signal.SIGKILL),
    ],
)
def test_scripted_deaths(script: Path, do: str, status: int) -> None:
    """Each way to die ends the process with its own status, after the tokens before it were delivered."""
    text = f"answers: [{{pieces: [x], tokens: 9, token_seconds: 0.05}}]\nfaults: [{{when: token, number: 3, do: {do}}}]"
    with loaded(script, text) as worker:
        worker.generate("r")

        assert status == worker.wait_exit()
        assert "xx" == text_of(worker, "r")
        assert (b"out of device memory\n" in worker.stderr) == ("abort" in do)
        assert bool(worker.crash_file.read_text()) == (status in (-signal.SIGSEGV, -signal.SIGABRT))


def test_one_crash_and_then_well(script: Path) -> None:
    """`lives: 1` confines a fault to the first load: the next worker serves the same request."""
    text = "answers: [{pieces: [fine]}]\nfaults: [{when: request, do: kill, lives: 1}]"
    with loaded(script, text) as worker:
        worker.generate("r")

        assert -signal.SIGKILL == worker.wait_exit()

    with loaded(script, text) as worker:
        worker.generate("r")

        assert isinstance(worker.wait_for_end("r"), Finished)


def test_exception_in_generate_costs_one_request(script: Path) -> None:
    """An uncaught exception in a step is `generation_error` for its request; the same worker serves the next one."""
    text = "answers: [{pieces: [fine]}]\nfaults: [{when: token, contains: bad, do: raise, line: oh no}]"
    with loaded(script, text) as worker:
        worker.generate("bad", prompt="bad")
        failed = worker.wait_for_end("bad")
        worker.generate("good", prompt="good")

        assert isinstance(failed, Failed) and failed.code == ErrorCode.GENERATION_ERROR and "oh no" in failed.message
        assert isinstance(worker.wait_for_end("good"), Finished)

        worker.send(Shutdown(grace_seconds=5))

        assert 0 == worker.wait_exit()
        assert b"RuntimeError: oh no" in worker.stderr


def test_prompt_over_the_context_is_refused(script: Path) -> None:
    """A refusal by the tokenizing thread reaches the client's request with its code."""
    with loaded(script, "context_length: 10") as worker:
        worker.generate("r", prompt="word " * 100)
        failed = worker.wait_for_end("r")

        assert isinstance(failed, Failed)
        assert (ErrorCode.CONTEXT_LENGTH_EXCEEDED, 0) == (failed.code, failed.seq)


@pytest.mark.parametrize("what", ["garbage", "second load", "same id"])
def test_broken_supervisor_is_left(script: Path, what: str) -> None:
    """Bytes that are no message, or a message that is not allowed now, end the worker with the protocol status."""
    with loaded(script, SLOW) as worker:
        if what == "garbage":
            worker.send(b"\xc1\xc1\xc1")
        elif what == "second load":
            worker.send_load(script)
        else:
            worker.generate("r")
            worker.generate("r")

        assert ExitCode.PROTOCOL == worker.wait_exit()
        assert b"lmx-worker: " in worker.stderr


def test_other_protocol_version_is_not_spoken() -> None:
    """A supervisor of another version is told so on stderr, with both versions, and left before anything else."""
    with WorkerHarness(protocol=PROTOCOL_VERSION + 1) as worker:
        assert ExitCode.PROTOCOL == worker.wait_exit()
        assert f"protocol {PROTOCOL_VERSION + 1}, this worker {PROTOCOL_VERSION}".encode() in worker.stderr
        assert [] == worker.messages


def test_boot_faults_come_from_the_environment(script: Path) -> None:
    """What happens before the model is known can be scripted too: a Hello in the wrong version, and none at all."""
    script.write_text("faults: [{when: hello, do: wrong_version}]")
    with WorkerHarness(boot_script=script) as worker:
        assert PROTOCOL_VERSION + 1 == worker.expect(Hello).protocol

    script.write_text("faults: [{when: hello, do: mute}]")
    with WorkerHarness(boot_script=script) as worker:
        assert worker.receive(1.0) is None
        assert worker.process.poll() is None

    script.write_text("faults: [{when: import, do: exit, code: 5}]")
    with WorkerHarness(boot_script=script) as worker:
        assert 5 == worker.wait_exit()


def test_flood_does_not_stop_the_service(script: Path) -> None:
    """Megabytes on stderr are drained beside the answers."""
    text = "answers: [{pieces: [fine]}]\nfaults: [{when: request, do: flood, bytes: 20000000, shape: binary}]"
    with loaded(script, text) as worker:
        worker.generate("r")

        assert isinstance(worker.wait_for_end("r"), Finished)


def test_leak_shows_in_the_beat(script: Path) -> None:
    """Memory that leaks is seen in the footprint."""
    text = "faults: [{when: request, do: leak, bytes: 40000000, bytes_per_second: 400000000}]"
    with loaded(script, text) as worker:
        before = worker.expect(Beat).footprint_bytes
        worker.generate("r")
        while worker.expect(Beat).footprint_bytes < before + 30_000_000:
            pass
