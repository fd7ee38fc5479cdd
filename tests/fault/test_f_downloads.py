"""F73: downloads that are killed, cut off, lied to or without room. What arrives is whole, or it cannot be loaded."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lmx_protocol import limits
from tests.support.downloads import (
    GOOD_FILES,
    REPO_ID,
    available,
    hub_settings,
    job_pid,
    progress,
    start_download,
    wait_for_end,
)
from tests.support.fake_hub import FakeHub, serving
from tests.support.live import LiveServer, wait_until
from tests.support.world import World

BIG = random.Random(73).randbytes(400_000)
HALF = 200_000
GONE_SECONDS = 1.0
FILES = {**GOOD_FILES, "payload.bin": BIG}
MODEL_ID = "org/tiny/tiny"
"""The scripted model that the repository holds."""
PROMISE = "A partial or wrong download can never be loaded."

f73 = pytest.mark.fault("F73", PROMISE)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with one repository: a small model, and a large file."""
    with serving() as hub:
        hub.add(REPO_ID, dict(FILES))
        yield hub


def parts(server: LiveServer) -> Path:
    """Where unfinished files are gathered."""
    return server.home / "models/.downloads/org@tiny/parts"


def wait_for_half(server: LiveServer, hub: FakeHub) -> None:
    """Half of the large file is on the disk, and its connection stands still."""
    hub.wait_until_stalled()
    wait_until(lambda: sum(path.stat().st_size for path in parts(server).iterdir()) >= HALF, 30.0, "half of the file")


def assert_nothing_to_load(server: LiveServer) -> None:
    """Neither in the listing, nor by any id."""
    assert not {model_id for model_id in available(server) if model_id.startswith("org/")}
    assert server.http.post("/admin/models/load", json={"model_id": MODEL_ID}).status_code == 404


def assert_whole_and_served(server: LiveServer) -> None:
    """Every byte is right, and the model answers."""
    directory = server.home / "models" / REPO_ID
    assert {name: (directory / name).read_bytes() for name in FILES} == FILES
    assert not list((server.home / "models/.downloads").iterdir())
    server.load(MODEL_ID)
    assert server.chat(MODEL_ID).json()["choices"][0]["message"]["content"] == "from the hub"


@f73
def test_f73_job_killed(world: World, hub: FakeHub) -> None:
    """kill -9 of the download's process: the next one goes on where it was, and a healthy model does not notice."""
    hub.repositories[REPO_ID].stall_after_bytes["payload.bin"] = HALF
    server = world.serve(**hub_settings(hub))
    world.expect_crash("oom_suspected")
    with world.bystander():
        download_id = start_download(server)
        wait_for_half(server, hub)
        hub.repositories[REPO_ID].stall_after_bytes.clear()
        hub.starts.clear()
        os.kill(job_pid(server), signal.SIGKILL)
        killed_at = time.monotonic()
        end = wait_for_end(server, download_id)
    world.measure("download's process killed to model whole", time.monotonic() - killed_at, "s")

    assert end["status"] == "completed", end
    assert end["attempts"] == 2
    assert ("payload.bin", HALF) in hub.starts
    assert_whole_and_served(server)


@f73
def test_f73_supervisor_killed(world: World, hub: FakeHub) -> None:
    """kill -9 of the supervisor takes the process along; the next start goes on by itself where it was."""
    hub.repositories[REPO_ID].stall_after_bytes["payload.bin"] = HALF
    server = world.serve(**hub_settings(hub))
    download_id = start_download(server)
    wait_for_half(server, hub)
    wait_until(lambda: download_id in (server.home / "downloads.json").read_text(), 10.0, "the download to be written down")
    job = psutil.Process(job_pid(server))
    server.kill()
    killed_at = time.monotonic()
    job.wait(5.0)
    world.measure("download's process gone after its supervisor", time.monotonic() - killed_at, "s", GONE_SECONDS)
    assert not (server.home / "models" / REPO_ID).exists()
    hub.repositories[REPO_ID].stall_after_bytes.clear()
    hub.starts.clear()
    server.may_end = False
    server.start()
    end = wait_for_end(server, download_id)

    assert end["status"] == "completed", end
    assert ("payload.bin", HALF) in hub.starts
    assert_whole_and_served(server)


@f73
def test_f73_connection_dropped(world: World, hub: FakeHub) -> None:
    """Connections that break off are taken up again where they broke, in the same process."""
    hub.repositories[REPO_ID].drop_after_bytes["payload.bin"] = [100_000, 100_000]
    server = world.serve(**hub_settings(hub))
    end = wait_for_end(server, start_download(server))

    assert end["status"] == "completed", end
    assert end["attempts"] == 1
    assert hub.bytes_sent["payload.bin"] == len(BIG)
    assert_whole_and_served(server)


@f73
def test_f73_wrong_bytes(world: World, hub: FakeHub) -> None:
    """A hub that serves other bytes than it lists: refused by hash, nothing to load; right again, the download is."""
    hub.repositories[REPO_ID].served_instead["payload.bin"] = [bytes(len(BIG))] * 2
    server = world.serve(**hub_settings(hub))
    end = wait_for_end(server, start_download(server))
    assert (end["status"], end["error_code"]) == ("failed", "download_corrupt"), end
    assert "payload.bin" in end["error"]
    assert_nothing_to_load(server)
    again = wait_for_end(server, start_download(server))

    assert again["status"] == "completed", again
    assert_whole_and_served(server)


@f73
def test_f73_disk_full(world: World, hub: FakeHub) -> None:
    """No file may grow any more: the download fails and says so; with room again the same request goes on where it was."""
    server = world.serve(**hub_settings(hub))
    psutil.Process(server.pid).rlimit(psutil.RLIMIT_FSIZE, (HALF, psutil.RLIM_INFINITY))
    end = wait_for_end(server, start_download(server))
    assert (end["status"], end["error_code"]) == ("failed", "insufficient_disk"), end
    assert_nothing_to_load(server)
    psutil.Process(server.pid).rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    hub.starts.clear()
    again = wait_for_end(server, start_download(server))

    assert again["status"] == "completed", again
    assert ("payload.bin", HALF) in hub.starts
    assert_whole_and_served(server)


@f73
def test_f73_no_room(world: World, hub: FakeHub) -> None:
    """What does not fit is refused with 507 and the arithmetic before a byte is fetched."""
    server = world.serve(**hub_settings(hub, LMX_DOWNLOADS__DISK_RESERVE_BYTES=2**50))
    refused = server.http.post("/admin/models/download", json={"repo_id": REPO_ID})

    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "insufficient_disk")
    assert f"({sum(map(len, FILES.values()))} bytes) more" in refused.json()["error"]["message"]
    assert not hub.bytes_sent
    assert_nothing_to_load(server)


@f73
def test_f73_cancelled(world: World, hub: FakeHub) -> None:
    """A cancel ends the process before it answers, removes what has come, and leaves nothing to load."""
    hub.repositories[REPO_ID].stall_after_bytes["payload.bin"] = HALF
    server = world.serve(**hub_settings(hub))
    download_id = start_download(server)
    wait_for_half(server, hub)
    job = psutil.Process(job_pid(server))
    cancelled = server.http.post(f"/admin/models/download/{download_id}/cancel").json()

    assert (cancelled["status"], cancelled["cancelled"]) == ("cancelled", True)
    assert not job.is_running()
    assert not list((server.home / "models/.downloads").iterdir())
    assert progress(server, download_id)["status"] == "cancelled"
    assert_nothing_to_load(server)


@f73
def test_f73_job_that_dies_again_and_again(world: World, hub: FakeHub) -> None:
    """A process that is killed each time is started a bounded number of times; then the download fails and says why."""
    server = world.serve(**hub_settings(hub))
    hub.repositories[REPO_ID].stall_after_bytes["payload.bin"] = HALF
    world.expect_crash("oom_suspected", None)
    download_id = start_download(server)
    wait_for_half(server, hub)
    killed: set[int] = set()

    def is_over() -> bool:
        for child in server.children():
            if "(download" in " ".join(child.cmdline()) and child.pid not in killed:
                killed.add(child.pid)
                child.kill()
        return progress(server, download_id)["status"] == "failed"

    wait_until(is_over, 120.0, "the download to fail")
    assert len(killed) == limits.JOB_DEATHS_MAX + 1
    assert "died" in progress(server, download_id)["error"]
    assert_nothing_to_load(server)
