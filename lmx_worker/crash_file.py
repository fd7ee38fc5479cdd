"""The file a dying worker leaves its stacks in, and the C timer that ends a worker nobody else can end.

Standard library only: it is armed before anything else is imported, so that a crash inside an import leaves a stack too.
"""

import faulthandler
import os


class CrashFile:
    """Receives every thread's stack on a fatal signal (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT) or a missed watchdog.

    The file stays empty in a good life. Nothing may `dup2` over its descriptor: faulthandler keeps the number, not the file.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        faulthandler.enable(file=self._descriptor, all_threads=True)

    def rearm_watchdog(self, seconds: float) -> None:
        """Exit with all stacks (first line `Timeout (`, status 1) unless called again within `seconds`.

        The timer is a C thread: it fires although the GIL is held for ever, which no Python code could.
        """
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._descriptor)
