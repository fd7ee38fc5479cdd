"""Importing MLX: late, offline, and without what mlx-lm does to the process."""

import subprocess
import sys

_PROGRAM = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 3000))
from lmx_worker.backends.mlx.backend import MlxBackend
backend = MlxBackend()
assert not {"mlx", "mlx_lm", "transformers", "numpy"} & set(sys.modules), "the module imports what import_libraries should"
print(backend.import_libraries())
assert "mlx_lm.generate" in sys.modules
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, 3000)
assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
"""


def test_importing_is_late_offline_quiet_and_leaves_the_file_limit() -> None:
    """Under a hard limit below the one mlx-lm sets, the import works, says nothing and changes no limit."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", _PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mlx ")
    assert done.stderr == ""
