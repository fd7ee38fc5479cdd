"""A control group with little memory, for tests of what the kernel does when it runs out. Needs Linux and its permission."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live import wait_until

_ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A new group below the root, gone at the end; skips the test where none can be made. Its processes must end before."""
    legacy = _ROOT / "memory"
    parent, limit_name = (legacy, "memory.limit_in_bytes") if legacy.is_dir() else (_ROOT, "memory.max")
    group = parent / f"lmx-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    try:
        try:
            (group / limit_name).write_text(str(limit_bytes))
        except OSError as error:
            pytest.skip(f"the memory of a control group cannot be limited here: {error}")
        yield group
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10.0, "the group to be empty")
    finally:
        group.rmdir()


@contextlib.contextmanager
def joined(group: Path) -> Iterator[None]:
    """Be in the group for a while: what is started meanwhile stays in it."""
    before = _own_group(group.parent)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))


def _own_group(mount: Path) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if mount.name == "memory" else not controllers:
            return mount / path.lstrip("/")
    raise AssertionError("this process is in no group")
