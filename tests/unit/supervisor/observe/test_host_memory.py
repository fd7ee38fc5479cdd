"""The container's share of memory counts where it is smaller than the machine."""

from pathlib import Path

import pytest

from lmx_supervisor.observe.host_memory import CgroupMemory, cgroup_memories, host_memory, read_host_memory

GIB = 1024**3


def test_this_host_is_read() -> None:
    """The real reading adds up."""
    memory = read_host_memory()
    assert 0 < memory.available_bytes < memory.total_bytes
    assert memory.used_bytes + memory.available_bytes == memory.total_bytes
    assert memory.used_percent == pytest.approx(100 * memory.used_bytes / memory.total_bytes)


@pytest.mark.parametrize(
    ("cgroups", "total", "available"),
    [
        ([], 16, 10),
        ([(32, 1)], 16, 10),
        ([(8, 3)], 8, 5),
        ([(8, 9)], 8, 0),
        ([(12, 1)], 12, 10),
        ([(4, 1), (8, 7)], 4, 1),
    ],
    ids=["no cgroup", "limit above the machine", "limit", "over the limit", "machine busier than cgroup", "parent nearly full"],
)
def test_the_narrowest_limit_wins(cgroups: list[tuple[int, int]], total: int, available: int) -> None:
    """On a 16 GiB machine with 10 available, the tightest cgroup decides what is there and what is left."""
    limits = [CgroupMemory(limit_bytes=limit * GIB, used_bytes=used * GIB) for limit, used in cgroups]
    memory = host_memory(16 * GIB, 10 * GIB, limits)
    assert (memory.total_bytes, memory.available_bytes) == (total * GIB, available * GIB)
    assert memory.used_bytes == memory.total_bytes - memory.available_bytes


def test_a_version_2_hierarchy_is_walked_up(tmp_path: Path) -> None:
    """Own group without a limit, parent with one: the parent's counts, without the file cache it would give back."""
    own = tmp_path / "cgroup" / "service" / "own"
    own.mkdir(parents=True)
    for directory, limit in ((own, "max\n"), (own.parent, f"{8 * GIB}\n")):
        (directory / "memory.max").write_text(limit)
        (directory / "memory.current").write_text(f"{3 * GIB}\n")
        (directory / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\nactive_file {GIB // 2}\nfile {GIB}\n")
    (tmp_path / "self").write_text("0::/service/own\n")
    assert list(cgroup_memories(tmp_path / "self", tmp_path / "cgroup")) == [
        CgroupMemory(limit_bytes=8 * GIB, used_bytes=2 * GIB)
    ]


def test_a_version_1_hierarchy_is_read_from_its_controller(tmp_path: Path) -> None:
    """The memory controller's own tree is used, and a path of the host that is not mounted falls back to its root."""
    root = tmp_path / "cgroup" / "memory"
    root.mkdir(parents=True)
    (root / "memory.limit_in_bytes").write_text(str(4 * GIB))
    (root / "memory.usage_in_bytes").write_text(str(GIB))
    (root / "memory.stat").write_text("cache 1\n")
    (tmp_path / "self").write_text("5:cpu,cpuacct:/x\n4:memory:/docker/123\n1:name=systemd:/x\n")
    assert list(cgroup_memories(tmp_path / "self", tmp_path / "cgroup")) == [CgroupMemory(limit_bytes=4 * GIB, used_bytes=GIB)]


@pytest.mark.parametrize("membership", [None, "", "nonsense", "0::/../../etc\n", "0::/a\n"])
def test_unreadable_or_odd_cgroups_are_no_limit(tmp_path: Path, membership: str | None) -> None:
    """Whatever the kernel's files say or lack, the machine's own memory is the answer."""
    if membership is not None:
        (tmp_path / "self").write_text(membership)
    assert list(cgroup_memories(tmp_path / "self", tmp_path / "cgroup")) == []
