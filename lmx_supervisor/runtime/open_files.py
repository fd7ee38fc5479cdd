"""How many descriptors this process may open: raised to what it needs where the hard limit allows."""

import resource

from lmx_protocol import limits


def raise_open_files_limit() -> int:
    """Raise the soft limit towards `NOFILE_WANTED`; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.NOFILE_WANTED if hard == resource.RLIM_INFINITY else min(limits.NOFILE_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)
