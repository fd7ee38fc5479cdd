"""A stop that comes before the service runs: nothing was started, so leaving at once is clean. Imports almost nothing."""

import os
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def leave_when_asked() -> None:
    """Until the service takes the signals over, each of them ends the process with status 0.

    Not by an exception: raised in the middle of an import or a finalizer it might be lost.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
