"""Runs a Python module, a server's, in a process that finds itself in a cgroup with little memory.

    python -P small_memory.py TOTAL_BYTES OTHERS_FILE PYTHON -m MODULE ARGUMENT...

What its children take is real: their size. How much there is for all, and how many bytes of it other programs have (OTHERS_FILE
says that), is made up, in the place where the supervisor reads cgroups. Everything behind that reading is the product's.
"""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from lmx_supervisor.observe import host_memory


def pretend(total_bytes: int, others: Path) -> None:
    """From now on, every reading of this process finds that cgroup and no other."""
    supervisor = psutil.Process()

    def cgroups(*_: Path) -> Iterator[host_memory.CgroupMemory]:
        used_bytes = int(others.read_text()) + sum(map(_size_bytes, supervisor.children()))
        yield host_memory.CgroupMemory(limit_bytes=total_bytes, used_bytes=used_bytes)

    host_memory.cgroup_memories = cgroups


def _size_bytes(process: psutil.Process) -> int:
    """Without the pages of files, as a cgroup is read."""
    try:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    _, total, others_file, _python, _m, module, *arguments = sys.argv
    pretend(int(total), Path(others_file))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
