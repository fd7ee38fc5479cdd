"""Where the kernel's files about our own control groups are, version 2 or 1: a limit set on any group above binds too."""

from collections.abc import Iterator
from pathlib import Path

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def own_groups(controller: str, proc_cgroup: Path, root: Path) -> Iterator[tuple[Path, int]]:
    """The directories of the groups that this process is in, from its own up to the root, each with its cgroup version.

    Inside a container the path of the host may not exist under the mounted root; the root itself is then the container's own
    group, and is always among them.
    """
    try:
        memberships = proc_cgroup.read_text()
    except OSError:
        return
    for membership in memberships.splitlines():
        _, _, rest = membership.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            hierarchy, version = root, 2
        elif controller in controllers.split(","):
            hierarchy, version = root / controller, 1
        else:
            continue
        own = hierarchy / path.lstrip("/")
        for directory in [own, *own.parents]:
            if directory.is_relative_to(hierarchy):
                yield directory, version
