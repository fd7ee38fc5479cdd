"""The download job as a real process, against a hub on the loopback and the real client."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_protocol.jobs import JobDone, JobFailed, JobProgress
from tests.support.fake_hub import FakeHub, serving
from tests.support.job_harness import JobHarness, fetch_work
from tests.support.live import wait_until

BIG = random.Random(73).randbytes(300_000)
FILES = {"config.json": b'{"model_type": "tiny"}', "sub/notes.txt": b"read me", "model.safetensors": BIG}
ALMOST = 200_000


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with one repository."""
    with serving() as hub:
        hub.add("org/tiny", dict(FILES))
        yield hub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory."""
    models = tmp_path / "models"
    models.mkdir()
    return models


def run(models: Path, hub: FakeHub, repo_id: str = "org/tiny", **changes: object) -> JobDone | JobFailed:
    """One job from start to end."""
    with JobHarness(fetch_work(models, repo_id, **changes), models.parent, hub.url) as job:
        outcome = job.outcome()
    assert isinstance(outcome, JobDone | JobFailed)
    return outcome


def content_of(models: Path, repo_id: str = "org/tiny") -> dict[str, bytes]:
    """The files of a model, but for the download's own note."""
    directory = models / repo_id
    found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    found.pop(".lmx-download.json", None)
    return found


def nothing_is_there(models: Path, repo_id: str = "org/tiny") -> bool:
    """Whether no catalog could see anything of the model."""
    return not (models / repo_id).exists()


def test_a_whole_snapshot(hub: FakeHub, models: Path) -> None:
    """Every file arrives under its name, the plan says what there was to do, and nothing is left beside the model."""
    with JobHarness(fetch_work(models), models.parent, hub.url) as job:
        done = job.outcome()

    assert isinstance(done, JobDone)
    assert done.path == str(models / "org/tiny")
    assert content_of(models) == FILES
    assert job.plan.total_bytes == job.plan.missing_bytes == sum(map(len, FILES.values()))
    assert list((models / ".downloads").iterdir()) == []


def test_patterns_select_files(hub: FakeHub, models: Path) -> None:
    """Only what the patterns allow and do not ignore is fetched; a later selection adds to it."""
    run(models, hub, allow_patterns=("*.json", "*.txt"), ignore_patterns=("sub/*",))
    assert set(content_of(models)) == {"config.json"}
    run(models, hub, allow_patterns=("*.txt",))

    assert set(content_of(models)) == {"config.json", "sub/notes.txt"}


def test_looking_fetches_nothing(hub: FakeHub, models: Path) -> None:
    """A look tells sizes and leaves the disk alone."""
    with JobHarness(fetch_work(models, only_look=True), models.parent, hub.url) as job:
        job.outcome()

    assert job.plan.missing_bytes == sum(map(len, FILES.values()))
    assert list(models.iterdir()) == []
    assert not hub.bytes_sent


def test_a_killed_job_is_continued(hub: FakeHub, models: Path) -> None:
    """After kill -9 in the middle of a file the next job fetches what is missing of it, and no more."""
    hub.repositories["org/tiny"].stall_after_bytes["model.safetensors"] = ALMOST
    with JobHarness(fetch_work(models), models.parent, hub.url) as job:
        hub.wait_until_stalled()
        part = models / ".downloads/org@tiny/parts"
        wait_until(lambda: sum(path.stat().st_size for path in part.iterdir()) >= ALMOST, 20.0, "the bytes to be written")
        os.kill(job.process.pid, signal.SIGKILL)
        job.process.wait()
    assert nothing_is_there(models)
    hub.stop_stalling()
    hub.repositories["org/tiny"].stall_after_bytes.clear()
    hub.starts.clear()
    with JobHarness(fetch_work(models), models.parent, hub.url) as job:
        done = job.outcome()

    assert isinstance(done, JobDone)
    assert content_of(models) == FILES
    assert job.plan.missing_bytes <= len(BIG) - ALMOST + len(FILES["config.json"]) + len(FILES["sub/notes.txt"])
    assert [start for name, start in hub.starts if name == "model.safetensors"] == [ALMOST]


def test_dropped_connections_are_resumed(hub: FakeHub, models: Path) -> None:
    """A connection that breaks off twice costs two more requests, and no byte is fetched twice."""
    hub.repositories["org/tiny"].drop_after_bytes["model.safetensors"] = [100_000, 50_000]
    done = run(models, hub)

    assert isinstance(done, JobDone)
    assert content_of(models) == FILES
    assert hub.bytes_sent["model.safetensors"] == len(BIG)


def test_a_hub_that_ignores_ranges(hub: FakeHub, models: Path) -> None:
    """When the hub sends the whole file again, the part is replaced, not appended to."""
    repository = hub.repositories["org/tiny"]
    repository.ignores_ranges = True
    repository.drop_after_bytes["model.safetensors"] = [100_000]
    done = run(models, hub)

    assert isinstance(done, JobDone)
    assert content_of(models) == FILES


def test_a_passing_failure_of_the_hub(hub: FakeHub, models: Path) -> None:
    """A hub that is overloaded for a moment is asked again."""
    hub.repositories["org/tiny"].statuses = [503, 429]

    assert isinstance(run(models, hub), JobDone)


def test_attempts_are_bounded(hub: FakeHub, models: Path) -> None:
    """A connection that never gets anywhere ends in a refusal that says so, and nothing can be loaded."""
    hub.repositories["org/tiny"].drop_after_bytes["model.safetensors"] = [0] * 100
    failed = run(models, hub)

    assert isinstance(failed, JobFailed)
    assert failed.code == "hub_unavailable"
    assert "3 attempts" in failed.message
    assert nothing_is_there(models)


def test_a_stalled_connection_is_given_up(hub: FakeHub, models: Path) -> None:
    """A connection that brings nothing for the bound counts as failed; the beat says meanwhile what it waits for."""
    hub.repositories["org/tiny"].stall_after_bytes["model.safetensors"] = 1000
    work = fetch_work(models, stall_seconds=0.2, retry_initial_seconds=0.2, retry_max_seconds=0.2)
    with JobHarness(work, models.parent, hub.url, beat_seconds=0.02) as job:
        outcome = job.outcome()

    assert isinstance(outcome, JobDone) or outcome.code == "hub_unavailable"
    assert any(isinstance(said, JobProgress) and said.trouble and "Timeout" in said.trouble for said in job.said)


def test_wrong_bytes_once_are_fetched_again(hub: FakeHub, models: Path) -> None:
    """A file whose hash is wrong is thrown away and fetched again; the right one is used."""
    hub.repositories["org/tiny"].served_instead["model.safetensors"] = [bytes(len(BIG))]
    done = run(models, hub)

    assert isinstance(done, JobDone)
    assert content_of(models) == FILES


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_again_are_refused(hub: FakeHub, models: Path, name: str) -> None:
    """A hub that goes on serving other bytes than it lists is refused by hash, of large files and of small ones."""
    hub.repositories["org/tiny"].served_instead[name] = [bytes(len(FILES[name]))] * 9
    failed = run(models, hub)

    assert isinstance(failed, JobFailed)
    assert failed.code == "download_corrupt"
    assert name in failed.message
    assert nothing_is_there(models)


@pytest.mark.parametrize("size", [len(BIG) - 1000, len(BIG) + 1000])
def test_a_hub_that_lies_about_sizes(hub: FakeHub, models: Path, size: int) -> None:
    """A file that is longer or shorter than listed is refused, and its surplus is not taken in."""
    hub.repositories["org/tiny"].listed_sizes["model.safetensors"] = size
    failed = run(models, hub)

    assert isinstance(failed, JobFailed)
    assert failed.code == "download_corrupt"
    assert nothing_is_there(models)


def test_a_mirror_without_hashes_in_its_listing(hub: FakeHub, models: Path) -> None:
    """Where the listing only names files, sizes and hashes come from each file's own metadata."""
    hub.repositories["org/tiny"].tells_hashes = False
    hub.repositories["org/tiny"].served_instead["model.safetensors"] = [bytes(len(BIG))]

    assert isinstance(run(models, hub), JobDone)
    assert content_of(models) == FILES


REFUSALS = [
    ("org/none", None, "model_not_found"),
    ("org/tiny", (401, "RepoNotFound"), "model_not_found"),
    ("org/tiny", (403, "GatedRepo"), "hub_access_denied"),
    ("org/tiny", (403, ""), "hub_access_denied"),
    ("org/tiny", (404, "RevisionNotFound"), "model_not_found"),
    ("org/tiny", (418, ""), "download_failed"),
    ("org/tiny", (500, ""), "hub_unavailable"),
]


@pytest.mark.parametrize(("repo_id", "refuse", "code"), REFUSALS)
def test_what_the_hub_refuses(hub: FakeHub, models: Path, repo_id: str, refuse: tuple[int, str] | None, code: str) -> None:
    """Each refusal of the hub has a code of its own, and leaves nothing behind."""
    hub.repositories["org/tiny"].refuse = refuse
    failed = run(models, hub, repo_id)

    assert isinstance(failed, JobFailed)
    assert failed.code == code, failed.message
    assert list(models.iterdir()) == []


def test_file_names_that_lead_out(hub: FakeHub, models: Path) -> None:
    """A listing with a path out of the snapshot is refused before anything is written."""
    hub.add("org/evil", {"../../escaped.txt": b"boo", "config.json": b"{}"})
    failed = run(models, hub, "org/evil")

    assert isinstance(failed, JobFailed)
    assert failed.code == "download_failed"
    assert not list(models.parent.rglob("escaped.txt"))


def test_no_room(hub: FakeHub, models: Path) -> None:
    """What does not fit is refused before the first byte, with the arithmetic."""
    failed = run(models, hub, disk_reserve_bytes=2**60)

    assert isinstance(failed, JobFailed)
    assert failed.code == "insufficient_disk"
    assert f"({2**60} bytes) are to stay free" in failed.message
    assert "short" in failed.message
    assert not hub.bytes_sent


def test_a_disk_that_takes_no_more(hub: FakeHub, models: Path) -> None:
    """A disk that is full in the middle of a file ends in a refusal; with room again, the download goes on where it was."""
    with JobHarness(fetch_work(models), models.parent, hub.url, command=("prlimit", "--fsize=100000")) as job:
        failed = job.outcome()
    assert isinstance(failed, JobFailed)
    assert failed.code == "insufficient_disk"
    assert nothing_is_there(models)
    hub.starts.clear()
    done = run(models, hub)

    assert isinstance(done, JobDone)
    assert content_of(models) == FILES
    assert ("model.safetensors", 100_000) in hub.starts


def test_repairing_takes_over_what_is_right(hub: FakeHub, models: Path) -> None:
    """Files that are there with the right bytes are not fetched again; damaged ones are, whatever their size says."""
    run(models, hub)
    damaged = models / "org/tiny/model.safetensors"
    damaged.unlink()
    damaged.write_bytes(bytes(len(BIG)))
    hub.bytes_sent.clear()

    assert isinstance(run(models, hub), JobDone)
    assert content_of(models) == FILES
    assert set(hub.bytes_sent) == {"model.safetensors"}


def test_a_new_version_replaces_the_old_one(hub: FakeHub, models: Path) -> None:
    """Files that the new version lacks are gone, those the operator put there stay, unchanged ones are not fetched."""
    run(models, hub)
    (models / "org/tiny/mine.txt").write_text("notes")
    newer = hub.add("org/tiny", {"config.json": FILES["config.json"], "weights.safetensors": BIG[::-1]})
    hub.bytes_sent.clear()
    run(models, hub)

    assert content_of(models) == {**newer.files, "mine.txt": b"notes"}
    assert set(hub.bytes_sent) == {"weights.safetensors"}


def test_a_swap_that_was_cut_off(hub: FakeHub, models: Path) -> None:
    """Killed between the two renames of a swap, the next job still takes over everything of the model that was there."""
    run(models, hub)
    (models / "org/tiny/mine.txt").write_text("notes")
    staging = models / ".downloads/org@tiny"
    staging.mkdir(parents=True)
    (models / "org/tiny").rename(staging / "old")
    hub.bytes_sent.clear()
    run(models, hub)

    assert content_of(models) == {**FILES, "mine.txt": b"notes"}
    assert not hub.bytes_sent


def test_the_clients_cache_is_used(hub: FakeHub, models: Path, tmp_path: Path) -> None:
    """A file that the client's cache has is copied, not fetched; one there with other bytes is fetched."""
    commit = hub.repositories["org/tiny"].commit
    snapshot = tmp_path / "hf/hub/models--org--tiny/snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(BIG)
    (snapshot / "config.json").write_bytes(b"{}")

    assert isinstance(run(models, hub), JobDone)
    assert content_of(models) == FILES
    assert "model.safetensors" not in hub.bytes_sent


def test_the_token_is_sent_and_stays_private(hub: FakeHub, models: Path) -> None:
    """The token reaches the hub, and neither the command line nor the environment that others can read."""
    hub.repositories["org/tiny"].stall_after_bytes["model.safetensors"] = 1000
    with JobHarness(fetch_work(models), models.parent, hub.url, HF_TOKEN="hf_secret_of_mine") as job:
        hub.wait_until_stalled()
        process = Path(f"/proc/{job.process.pid}")
        seen = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        hub.stop_stalling()
        job.outcome()

    assert "Bearer hf_secret_of_mine" in hub.authorizations
    assert b"hf_secret" not in seen


def test_it_leaves_with_its_supervisor(hub: FakeHub, models: Path) -> None:
    """The end of its life pipe ends a job, whatever it is doing."""
    hub.repositories["org/tiny"].stall_after_bytes["model.safetensors"] = 1000
    with JobHarness(fetch_work(models), models.parent, hub.url) as job:
        hub.wait_until_stalled()
        assert job.process.stdin is not None
        job.process.stdin.close()

        assert job.process.wait(10) == 86
