"""What a process holds of the system: descriptors by kind, threads. Linux reads /proc; elsewhere only the totals are known."""

import re
import sys
from collections import Counter
from pathlib import Path

import psutil

_NUMBER_IN_LINK = re.compile(r":\[\d+\]$| \(deleted\)$")


def descriptor_kinds(pid: int) -> Counter[str]:
    """How many descriptors of each kind: a path, or `pipe`, `unix socket`, `tcp socket`, `anon_inode:[pidfd]` and the like."""
    process = psutil.Process(pid)
    if sys.platform != "linux":  # not run
        return Counter({"descriptor": process.num_fds()})
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds[_NUMBER_IN_LINK.sub("", str(link.readlink()))] += 1
        except FileNotFoundError:  # closed meanwhile
            continue
    tcp = len(process.net_connections("tcp"))
    kinds["tcp socket"], kinds["unix socket"] = tcp, kinds.pop("socket", 0) - tcp
    return kinds


def thread_count(pid: int) -> int:
    """How many threads."""
    return psutil.Process(pid).num_threads()


def rss_bytes(pid: int) -> int:
    """Resident memory."""
    return int(psutil.Process(pid).memory_info().rss)
