"""How a process misbehaves, one function per fault. All of them are committed on the thread that reached the trigger."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from lmx_worker.backends.scripted.script import Fault

_TICKS_PER_SECOND = 10
_FLOOD_CHUNK_BYTES = 64 * 1024


def commit(fault: Fault) -> None:
    """Do what the fault says. Most do not return."""
    _FAULTS[fault.do](fault)


def is_process_fault(fault: Fault) -> bool:
    """Whether `commit` knows the fault."""
    return fault.do in _FAULTS


def _exit(fault: Fault) -> None:
    os._exit(fault.code)


def _sys_exit(fault: Fault) -> None:
    sys.exit(fault.code)


def _segfault(_: Fault) -> None:
    ctypes.string_at(0)


def _abort(fault: Fault) -> None:
    sys.stderr.write(f"{fault.line}\n")
    sys.stderr.flush()
    os.abort()


def _kill(_: Fault) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_: Fault) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _stall(fault: Fault) -> None:
    threading.Event().wait(fault.seconds or None)


def _hold_gil(_: Fault) -> None:
    # PyDLL calls keep the GIL, unlike CDLL's.
    libc = ctypes.PyDLL(None)
    while True:
        libc.sleep(3600)


def _leak(fault: Fault) -> None:
    threading.Thread(target=_leak_for_ever, args=(fault,), name="leak", daemon=True).start()


def _leak_for_ever(fault: Fault) -> None:
    hoard: list[bytes] = []
    taken_bytes = 0
    while taken_bytes < fault.bytes:
        # Not zeros: pages of zeros would be shared until written.
        hoard.append(b"\xa5" * max(1, fault.bytes_per_second // _TICKS_PER_SECOND))
        taken_bytes += len(hoard[-1])
        time.sleep(1 / _TICKS_PER_SECOND)
    threading.Event().wait()


def _flood(fault: Fault) -> None:
    threading.Thread(target=_flood_out, args=(fault,), name="flood", daemon=True).start()


def _flood_out(fault: Fault) -> None:
    descriptor = 1 if fault.stream == "stdout" else 2
    pattern = {"lines": b"scripted flood\n", "one_line": b"scripted flood ", "binary": bytes(range(256))}[fault.shape]
    chunk = (pattern * (_FLOOD_CHUNK_BYTES // len(pattern) + 1))[:_FLOOD_CHUNK_BYTES]
    left_bytes = fault.bytes
    while left_bytes > 0:
        left_bytes -= os.write(descriptor, chunk[:left_bytes])


def _helper(fault: Fault) -> None:
    # Forked twice: the shell leaves at once, so that the helper is nobody's child and only its process group is known.
    subprocess.run(["/bin/sh", "-c", f"sleep {fault.seconds or 3600:.0f} &"], stdin=subprocess.DEVNULL, check=True)


def _raise(fault: Fault) -> None:
    raise RuntimeError(fault.line)


_FAULTS: dict[str, Callable[[Fault], None]] = {
    "exit": _exit,
    "sys_exit": _sys_exit,
    "segfault": _segfault,
    "abort": _abort,
    "kill": _kill,
    "stop": _stop,
    "stall": _stall,
    "hold_gil": _hold_gil,
    "leak": _leak,
    "flood": _flood,
    "helper": _helper,
    "raise": _raise,
}
