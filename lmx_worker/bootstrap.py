"""How a worker comes up. The order matters: each step protects the ones after it.

1. crash file (already armed by `__main__`, before any other import) - a crash in any later line leaves its stacks
2. no core files - a core is as large as the model
3. parent-death signal, then the boot specification from the life pipe, then a look at the parent - no orphan, ever
4. life pipe thread - the same without the kernel's help
5. title and signals - Ctrl-C and a stray SIGTERM are the supervisor's business
6. C watchdog - a stuck GIL ends this process even from here on
7. socket, Hello - only now the supervisor sees us
8. heart, prepare and engine threads - the engine imports the backend, which may take seconds or crash
"""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import setproctitle

from lmx_protocol.errors import ErrorCode, ExitCode, ProtocolViolation
from lmx_protocol.limits import TITLE_MODEL_CHARACTERS_MAX
from lmx_protocol.messages import BootSpec, Goodbye, Hello, LoadFailed
from lmx_protocol.version import PROTOCOL_VERSION, is_compatible
from lmx_worker import deadman, life_pipe
from lmx_worker.backends.registry import create_backend
from lmx_worker.channel import Channel
from lmx_worker.crash_file import CrashFile
from lmx_worker.dispatch import Dispatcher
from lmx_worker.engine import Engine
from lmx_worker.heart import Heart
from lmx_worker.inbox import Inbox
from lmx_worker.outbox import Outbox
from lmx_worker.prepare import Preparer
from lmx_worker.sabotage import sabotage_of
from lmx_worker.vitals import Vitals

_LIFE_PIPE = 0


def run(incarnation: str, crash_file: CrashFile) -> int:
    """Live. Returns the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    deadman.die_with_parent()
    try:
        spec = life_pipe.read_boot_spec(_LIFE_PIPE)
        _check(spec, incarnation)
    except EOFError:
        return ExitCode.PARENT_GONE
    except ProtocolViolation as error:
        _complain(error)
        return ExitCode.PROTOCOL
    if not deadman.is_child_of(spec.supervisor_pid):
        return ExitCode.PARENT_GONE
    _watch_parent(spec)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The supervisor stops us by message, and its death by other means; a SIGTERM to the whole service (systemd, a container's
    # stop) must not cut the streams that the supervisor is draining.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    show_title(f"(spare {spec.backend})", spec.incarnation)
    crash_file.rearm_watchdog(spec.c_watchdog_seconds)
    try:
        return _serve(spec, crash_file)
    except ProtocolViolation as error:
        _complain(error)
        return ExitCode.PROTOCOL


def show_title(what: str, incarnation: str) -> None:
    """Show as `lmx-worker MODEL [INCARNATION]` in `ps`; the boot sweep looks for the incarnation."""
    setproctitle.setproctitle(f"lmx-worker {what[:TITLE_MODEL_CHARACTERS_MAX]} [{incarnation}]")


def _complain(error: Exception) -> None:
    # The supervisor keeps the tail of stderr as evidence.
    sys.stderr.write(f"lmx-worker: {error}\n")


def _check(spec: BootSpec, incarnation: str) -> None:
    if not is_compatible(spec.protocol):
        raise ProtocolViolation(f"the supervisor speaks protocol {spec.protocol}, this worker {PROTOCOL_VERSION}")
    if spec.incarnation != incarnation:
        raise ProtocolViolation(f"started as {incarnation!r} with the specification of {spec.incarnation!r}")


def _watch_parent(spec: BootSpec) -> None:
    threading.Thread(target=life_pipe.exit_at_end, args=(_LIFE_PIPE,), name="life-pipe", daemon=True).start()
    if deadman.has_exit_events():
        threading.Thread(target=deadman.exit_with_process, args=(spec.supervisor_pid,), name="parent", daemon=True).start()


def _serve(spec: BootSpec, crash_file: CrashFile) -> int:
    try:
        backend = create_backend(spec.backend)
    except (KeyError, ImportError) as error:
        return _decline(spec, f"there is no backend {spec.backend!r} in this installation: {error!r}")
    sabotage = sabotage_of(backend)
    inbox, outbox, vitals = Inbox(), Outbox(sabotage), Vitals()
    preparer = Preparer(backend, inbox)
    engine = Engine(name=spec.backend, backend=backend, inbox=inbox, outbox=outbox, preparer=preparer, vitals=vitals)
    heart = Heart(spec=spec, backend=backend, outbox=outbox, vitals=vitals, crash_file=crash_file)
    dispatcher = Dispatcher(
        inbox=inbox,
        outbox=outbox,
        preparer=preparer,
        vitals=vitals,
        show_title=lambda model_id: show_title(model_id, spec.incarnation),
    )
    channel = Channel(spec, outbox, dispatcher.handle, sabotage)
    outbox.post(_hello(spec))
    for name, body in (("heart", heart.run), ("prepare", preparer.run), ("engine", engine.run)):
        threading.Thread(target=_run_to_the_end, args=(body, outbox), name=name, daemon=True).start()
    status = channel.run()
    channel.close()
    return status


def _decline(spec: BootSpec, reason: str) -> int:
    outbox = Outbox()
    channel = Channel(spec, outbox, lambda _: None, None)
    for message in (
        _hello(spec),
        LoadFailed(code=ErrorCode.MODEL_UNSUPPORTED_BACKEND, message=reason),
        Goodbye(reason=ErrorCode.MODEL_UNSUPPORTED_BACKEND),
    ):
        outbox.post(message)
    outbox.depart(ExitCode.CONFIG)
    status = channel.run()
    channel.close()
    return status


def _hello(spec: BootSpec) -> Hello:
    return Hello(protocol=PROTOCOL_VERSION, incarnation=spec.incarnation, pid=os.getpid(), backend=spec.backend)


def _run_to_the_end(body: Callable[[], None], outbox: Outbox) -> None:
    """A thread's outermost frame: a worker that has lost one of its threads is no worker any more."""
    try:
        body()
    except SystemExit as request:
        outbox.depart(request.code if isinstance(request.code, int) else 1)
    except ProtocolViolation as error:
        _complain(error)
        outbox.depart(ExitCode.PROTOCOL)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        outbox.depart(1)
