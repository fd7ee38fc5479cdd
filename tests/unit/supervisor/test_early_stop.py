"""A stop before the service runs."""

import subprocess
import sys

import pytest

from lmx_supervisor.early_stop import STOP_SIGNALS


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_before_the_service_runs_is_a_clean_stop(number: int) -> None:
    """Status 0, whatever the process was importing."""
    program = f"import os; from lmx_supervisor.early_stop import *; leave_when_asked(); os.kill(os.getpid(), {number:d}); 1/0"

    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
