"""Kills for want of memory, counted by the kernel, told from other kills."""

from pathlib import Path

import pytest

from lmx_supervisor.runtime.oom_evidence import CgroupCount, JetsamReports, OomEvidence, oom_evidence


def put(root: Path, name: str, text: str) -> None:
    """A file below a root of our own."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/lmx.service\n", "sys/fs/cgroup/lmx.service/memory.events", "low 0\noom 1\noom_kill {}\noom_group_kill 0\n"),
        ("4:cpu,memory:/a/b\n0::/\n", "sys/fs/cgroup/memory/a/b/memory.oom_control", "under_oom 0\noom_kill {}\n"),
        ("0::/as/the/host/sees/it\n", "sys/fs/cgroup/memory.events", "oom 1\noom_kill {}\n"),
        ("4:memory:/docker/0a1b\n", "sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\noom_kill {}\n"),
        ("0::/\n", "proc/vmstat", "pgfault 7\noom_kill {}\n"),
    ],
)
def test_the_count_is_found_wherever_the_kernel_keeps_it(tmp_path: Path, groups: str, file: str, text: str) -> None:
    """Both versions of control groups, containers that see the host's path, and the root group."""
    put(tmp_path, "proc/self/cgroup", groups)
    put(tmp_path, file, text.format(3))
    evidence = CgroupCount(tmp_path)
    before = evidence.claim(1)
    put(tmp_path, file, text.format(4))

    assert (before, evidence.claim(1)) == (False, True)


def test_each_kill_confirms_one_death(tmp_path: Path) -> None:
    """Two kills, three deaths by SIGKILL: the third is not the kernel's."""
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "proc/vmstat", "oom_kill 10\n")
    evidence = CgroupCount(tmp_path)
    put(tmp_path, "proc/vmstat", "oom_kill 12\n")

    assert [evidence.claim(pid) for pid in (1, 2, 3)] == [True, True, False]


def test_a_system_without_a_count_confirms_nothing(tmp_path: Path) -> None:
    """An empty or unreadable system leaves every kill a suspicion, and nothing raises."""
    put(tmp_path, "proc/self/cgroup", "")

    assert CgroupCount(tmp_path).claim(1) is False


def test_this_machine_has_some_kind_of_evidence() -> None:
    """The real files of the running system can be read; nobody has been killed since."""
    evidence: OomEvidence = oom_evidence()

    assert evidence.claim(1) is False


def test_a_jetsam_report_names_its_process(tmp_path: Path) -> None:
    """The seam for macOS: the report confirms the process in it and no other."""
    put(tmp_path, "JetsamEvent-2026-01-02-030405.ips", '{"processes" : [{"pid" : 41, "reason" : "highwater"}]}')

    assert [JetsamReports(tmp_path).claim(pid) for pid in (41, 4)] == [True, False]
