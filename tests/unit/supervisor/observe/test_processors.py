"""How many cores there are for us: an affinity and a container's quota count."""

import os
from pathlib import Path

import pytest

from lmx_supervisor.observe.processors import cgroup_quotas, count_processors, processors


def test_this_host_is_counted() -> None:
    """There is a core, and there are no more than the machine has."""
    assert 1 <= count_processors() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("allowed", "quotas", "expected"),
    [(8, [], 8), (8, [2.0], 2), (8, [1.5], 2), (8, [0.25], 1), (2, [16.0], 2), (8, [6.0, 3.0], 3)],
    ids=["no quota", "quota", "part of a core", "less than one", "quota above the machine", "parent is narrower"],
)
def test_the_narrowest_counts(allowed: int, quotas: list[float], expected: int) -> None:
    """As many as we may run on, or as the narrowest quota pays for; half a core is a core."""
    assert processors(allowed, quotas) == expected


def test_quotas_of_version_2(tmp_path: Path) -> None:
    """Own group without a quota, parent with one: the parent's counts."""
    own = tmp_path / "cgroup" / "service" / "own"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (own.parent / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "self").write_text("0::/service/own\n")
    assert list(cgroup_quotas(tmp_path / "self", tmp_path / "cgroup")) == [1.5]


def test_quotas_of_version_1(tmp_path: Path) -> None:
    """The controller's own tree is read, where it shares its name with another controller too; -1 is no quota."""
    root = tmp_path / "cgroup" / "cpu"
    (root / "a").mkdir(parents=True)
    for directory, quota in ((root / "a", "-1"), (root, "200000")):
        (directory / "cpu.cfs_quota_us").write_text(quota)
        (directory / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "self").write_text("4:memory:/a\n3:cpu,cpuacct:/a\n")
    assert list(cgroup_quotas(tmp_path / "self", tmp_path / "cgroup")) == [2.0]


def test_no_control_groups(tmp_path: Path) -> None:
    """A kernel without them has no quotas."""
    assert list(cgroup_quotas(tmp_path / "missing", tmp_path)) == []
