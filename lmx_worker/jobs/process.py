"""How a job comes up: the same nets as a worker's (`lmx_worker.bootstrap`), in the same order, and no socket.

A job ignores SIGINT and SIGTERM: its supervisor ends it, with SIGKILL, at any moment. What it leaves on the disk is made for
that, so there is no polite way that could fail.
"""

import os
import resource
import signal
import sys
import threading
import time

import setproctitle

from lmx_protocol.errors import ExitCode, ProtocolViolation
from lmx_protocol.jobs import JobFailed, JobMessage, JobSpec, decode_job_spec
from lmx_protocol.limits import FAILURE_MESSAGE_CHARACTERS_MAX, JOB_FRAME_BYTES_MAX, TITLE_MODEL_CHARACTERS_MAX
from lmx_protocol.version import PROTOCOL_VERSION, is_compatible
from lmx_worker import deadman, life_pipe
from lmx_worker.crash_file import CrashFile
from lmx_worker.jobs.refusal import JobRefusal
from lmx_worker.jobs.tally import Tally
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
    _start(life_pipe.exit_at_end, _LIFE_PIPE)
    if deadman.has_exit_events():
        _start(deadman.exit_with_process, spec.supervisor_pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    what = spec.work.repo_id[:TITLE_MODEL_CHARACTERS_MAX]
    setproctitle.setproctitle(f"lmx-worker (download {what}) [{spec.job}]")
    os.environ.update({**spec.environment, **_HUB_SETTINGS})
    tally = Tally()
    _start(_beat, spec, voice, tally, crash_file)
    voice.say(_outcome(spec, voice, tally))
    return ExitCode.OK


def _check(spec: JobSpec, job: str) -> None:
    if not is_compatible(spec.protocol):
        raise ProtocolViolation(f"the supervisor speaks protocol {spec.protocol}, this job {PROTOCOL_VERSION}")
    if spec.job != job:
        raise ProtocolViolation(f"started as {job!r} with the specification of {spec.job!r}")


def _start(body: object, *arguments: object) -> None:
    threading.Thread(target=body, args=arguments, daemon=True).start()  # type: ignore[arg-type]  # callables of many shapes


def _beat(spec: JobSpec, voice: Voice, tally: Tally, crash_file: CrashFile) -> None:
    """Once a beat: look for the parent, wind up the C watchdog, say how far the work is."""
    while True:
        if not deadman.is_child_of(spec.supervisor_pid):
            os._exit(ExitCode.PARENT_GONE)
        crash_file.rearm_watchdog(spec.c_watchdog_seconds)
        voice.say(tally.progress())
        time.sleep(spec.beat_interval_seconds)


def _outcome(spec: JobSpec, voice: Voice, tally: Tally) -> JobMessage:
    # Imported with the environment in place: the hub's client reads it once, while it is imported.
    from lmx_worker.jobs.snapshot import fetch_model

    try:
        return fetch_model(spec.work, voice.say, tally)
    except JobRefusal as refusal:
        return JobFailed(code=refusal.code, message=refusal.message[:FAILURE_MESSAGE_CHARACTERS_MAX])
