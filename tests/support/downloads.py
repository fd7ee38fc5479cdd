"""A server whose downloads come from a fake hub, and what tests ask it about them."""

from typing import Any

from tests.support.fake_hub import FakeHub
from tests.support.live import LiveServer, wait_until

SCRIPT = b"answers: [{pieces: ['from ', 'the ', 'hub']}]\n"
REPO_ID = "org/tiny"
GOOD_FILES = {"tiny.script.yaml": SCRIPT, "README.md": b"# tiny\n"}


def hub_settings(hub: FakeHub, **more: object) -> dict[str, str]:
    """The environment of a server that downloads from `hub`, with the impatience of a test."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "LMX_SECURITY__DOWNLOADS_ENABLED": "true",
        "LMX_DOWNLOADS__DISK_RESERVE_BYTES": "0",
        "LMX_DOWNLOADS__RETRY_INITIAL_SECONDS": "0.05",
        "LMX_DOWNLOADS__RETRY_MAX_SECONDS": "0.2",
    }
    return settings | {name: str(value) for name, value in more.items()}


def start_download(server: LiveServer, repo_id: str = REPO_ID, **fields: Any) -> str:
    """Have a repository downloaded; returns the download's id."""
    response = server.http.post("/admin/models/download", json={"repo_id": repo_id, **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["download_id"])


def progress(server: LiveServer, download_id: str) -> dict[str, Any]:
    """How far it is."""
    response = server.http.get(f"/admin/models/download/{download_id}/progress")
    assert response.status_code == 200, response.text
    return dict(response.json())


def wait_for_end(server: LiveServer, download_id: str, seconds: float = 60.0) -> dict[str, Any]:
    """How it ended."""
    over = ("completed", "failed", "cancelled")
    wait_until(lambda: progress(server, download_id)["status"] in over, seconds, f"{download_id} to be over")
    return progress(server, download_id)


def job_pid(server: LiveServer) -> int:
    """The process of the one download that runs."""
    jobs = [child.pid for child in server.children() if "(download" in " ".join(child.cmdline())]
    assert len(jobs) == 1, jobs
    return jobs[0]


def available(server: LiveServer) -> set[str]:
    """The ids of all models that could be loaded."""
    return {model["repo_id"] for model in server.http.get("/admin/models/available").json()}
