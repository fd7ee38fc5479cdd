"""A: what the system takes away from a worker: its memory, and the file its weights are mapped from."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.acts import LONG, ended_as_lost, stream_until, talker
from tests.support.mlx_models import smollm2_gguf
from tests.support.server_log import told, wait_told
from tests.support.world import World

CGROUPS = Path("/sys/fs/cgroup/memory")
CGROUP_BYTES = 600 * 1024**2


@pytest.mark.real
@pytest.mark.fault("F05", "named as what it is, not loaded again, 422 from then on")
def test_f05_the_model_file_is_truncated_while_mapped(world: World, tmp_path: Path) -> None:
    """Reading a page that is not there any more ends the worker with SIGBUS; loading the rest again would help nobody."""
    copy = tmp_path / "truncated.gguf"
    shutil.copyfile(smollm2_gguf(), copy)
    server = world.serve()
    server.load("truncated", path=str(copy))
    with world.bystander():
        payloads = stream_until(
            server, "truncated", "Count to one hundred.", 3, lambda: _truncate(copy), max_tokens=400, temperature=0
        )
        exited = wait_told(server, "worker_exited", model_id="truncated")
        refused = server.chat("truncated")

    assert ended_as_lost(payloads)
    assert exited.fields["reason"] == "model_truncated"
    assert told(server, "worker_restarting", model_id="truncated") == []
    assert refused.status_code == 422
    world.expect_crash("model_truncated")


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup of our own with a limit; skips where none can be made."""
    group = CGROUPS / "lmx-fault-f15"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(CGROUP_BYTES))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    group.rmdir()


@pytest.mark.fault("F15", "named as killed for want of memory, confirmed by the kernel's own count")
def test_f15_a_real_oom_kill(memory_cgroup: Path, world: World) -> None:
    """The supervisor and its workers share a limit; the kernel takes the worker that leaks, and the supervisor says so."""
    server = world.prepare()
    enter = f'echo $$ > {memory_cgroup}/cgroup.procs && exec "$@"'
    server.command = ("/bin/sh", "-c", enter, "sh")
    server.start()
    victim = talker(
        server,
        faults='{when: token, number: 3, contains: "leak", do: leak, bytes: 2000000000, bytes_per_second: 800000000, lives: 1}',
    )
    with world.bystander():
        list(server.stream(victim, f"{LONG} and leak"))
        exited = wait_told(server, "worker_exited", model_id=victim)
        server.wait_for_state(victim, "ready")

    assert exited.fields["reason"] == "oom_killed"
    world.expect_crash("oom_killed")


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(4096)
