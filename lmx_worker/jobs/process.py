"""How a job comes up: the same nets as a worker's (`lmx_worker.bootstrap`), in the same order, and no socket.

A job ignores SIGINT, and SIGTERM unless it comes from its supervisor: then it is gone at once. What it leaves on the disk is
made for that, so there is no polite way that could fail.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable

import setproctitle

from lmx_protocol.errors import ExitCode, ProtocolViolation
from lmx_protocol.jobs import FetchModel, JobFailed, JobMessage, JobSpec, ProbeModel, QuantizeModel, decode_job_spec
from lmx_protocol.limits import FAILURE_MESSAGE_CHARACTERS_MAX, JOB_FRAME_BYTES_MAX, TITLE_MODEL_CHARACTERS_MAX
from lmx_protocol.version import PROTOCOL_VERSION, is_compatible
from lmx_worker import deadman, life_pipe
from lmx_worker.crash_file import CrashFile
from lmx_worker.jobs.refusal import JobRefusal
from lmx_worker.jobs.tally import PhaseTally, Tally
from lmx_worker.jobs.voice import Voice

_LIFE_PIPE = 0
_HUB_SETTINGS = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def run(incarnation: str, crash_file: CrashFile) -> int:
    """Do the work. Returns the exit status: 0 when the outcome was told, whatever it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    voice = Voice.instead_of_stdout()
    deadman.die_with_parent()
    try:
        spec = decode_job_spec(life_pipe.read_frame(_LIFE_PIPE, JOB_FRAME_BYTES_MAX))
        _check(spec, incarnation)
    except EOFError:
        return ExitCode.PARENT_GONE
    except ProtocolViolation as error:
        sys.stderr.write(f"lmx-worker: {error}\n")
        return ExitCode.PROTOCOL
    if not deadman.is_child_of(spec.supervisor_pid):
        return ExitCode.PARENT_GONE
    _heed_signals(spec.supervisor_pid)
    _start(life_pipe.exit_at_end, _LIFE_PIPE)
    if deadman.has_exit_events():
        _start(deadman.exit_with_process, spec.supervisor_pid)
    setproctitle.setproctitle(f"lmx-worker ({spec.work.title[:TITLE_MODEL_CHARACTERS_MAX]}) [{spec.job}]")
    os.environ.update({**spec.environment, **_HUB_SETTINGS})
    work, progress = _work(spec, voice)
    _start(_beat, spec, voice, progress, crash_file)
    voice.say(_outcome(work))
    return ExitCode.OK


def _check(spec: JobSpec, job: str) -> None:
    if not is_compatible(spec.protocol):
        raise ProtocolViolation(f"the supervisor speaks protocol {spec.protocol}, this job {PROTOCOL_VERSION}")
    if spec.job != job:
        raise ProtocolViolation(f"started as {job!r} with the specification of {spec.job!r}")


def _start(body: object, *arguments: object) -> None:
    threading.Thread(target=body, args=arguments, daemon=True).start()  # type: ignore[arg-type]  # callables of many shapes


def _heed_signals(supervisor_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # Blocked before any other thread is there, so that one thread alone hears of it, and who sent it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _start(_leave_when_told, supervisor_pid)
    else:  # not run: macOS does not tell who sent a signal, and the supervisor follows up with SIGKILL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave_when_told(supervisor_pid: int) -> None:
    """A SIGTERM to the whole service (systemd, a container's stop) is the supervisor's to obey; its own word ends us."""
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != supervisor_pid:
            pass
        # As the kernel does it: whoever reaps us sees the signal.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


def _beat(spec: JobSpec, voice: Voice, progress: Callable[[], JobMessage], crash_file: CrashFile) -> None:
    """Once a beat: look for the parent, wind up the C watchdog, say how far the work is."""
    while True:
        if not deadman.is_child_of(spec.supervisor_pid):
            os._exit(ExitCode.PARENT_GONE)
        crash_file.rearm_watchdog(spec.c_watchdog_seconds)
        voice.say(progress())
        time.sleep(spec.beat_interval_seconds)


def _work(spec: JobSpec, voice: Voice) -> tuple[Callable[[], JobMessage], Callable[[], JobMessage]]:
    """What is to be done, and how far it is. Its own modules are imported while it is done, with the beat already going."""
    match spec.work:
        case FetchModel() as fetching:
            tally = Tally()

            def fetch() -> JobMessage:
                # Imported with the environment in place: the hub's client reads it once, while it is imported.
                from lmx_worker.jobs.snapshot import fetch_model

                return fetch_model(fetching, voice.say, tally)

            return fetch, tally.progress
        case ProbeModel() as probing:
            phases = PhaseTally()

            def probe() -> JobMessage:
                from lmx_worker.jobs.probe import probe_model

                return probe_model(probing, phases)

            return probe, phases.progress
        case QuantizeModel() as quantizing:
            phases = PhaseTally()

            def quantize() -> JobMessage:
                from lmx_worker.jobs.quantize import quantize_model

                return quantize_model(quantizing, phases)

            return quantize, phases.progress


def _outcome(work: Callable[[], JobMessage]) -> JobMessage:
    try:
        return work()
    except JobRefusal as refusal:
        return JobFailed(code=refusal.code, message=refusal.message[:FAILURE_MESSAGE_CHARACTERS_MAX])
