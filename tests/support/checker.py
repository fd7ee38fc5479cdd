"""The universal rules U1-U9: what must be true of a server after every fault, each rule a function that yields what broke it.

U3 (other models do not notice) needs a stream during the fault and is `world.Bystander`.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from lmx_protocol import limits
from tests.support.holdings import descriptor_kinds, thread_count
from tests.support.live import LiveServer, wait_until

SETTLE_SECONDS = 5.0
NEXT_REQUEST_SECONDS = 10.0
COMING_SECONDS = 30.0
_LOG_MUST_NOT_SAY = ("Traceback", "never awaited", "Task was destroyed", "core_failed")
_ZMQ_CONTEXT = Counter({"anon_inode:[eventpoll]": 2, "anon_inode:[eventfd]": 2})
"""What libzmq opens once, with the first worker."""
_THREADS_ON_DEMAND_MAX = 2 + 2 * min(32, (os.cpu_count() or 1) + 4)
"""The two of libzmq, and the pools of asyncio and the catalog, which grow on demand to a bound."""
_SERVING = ("ready", "busy")
_COMING = {"spawning", "loading", "warming", "draining", "crashed", "backoff"}


def broken_rules(server: LiveServer) -> list[str]:
    """Check every rule and stop the server; returns one sentence per breach, the rule's number first."""
    broken: list[str] = []
    if server.process is None:
        return broken
    if server.process.poll() is None:
        _check(broken, server, supervisor_is_well, every_request_ended_once, status_tells_the_truth, next_request_succeeds)
        _check(broken, server, nothing_accumulated, stops_in_order)
    elif not server.may_end:
        broken.append(f"U1: the supervisor ended by itself with {server.process.returncode}")
    _check(broken, server, every_stream_ended_once, no_process_remains, no_file_remains, crash_bundles_match, log_is_clean)
    return broken


def _check(broken: list[str], server: LiveServer, *rules: Callable[[LiveServer], Iterator[str]]) -> None:
    for rule in rules:
        try:
            broken.extend(rule(server))
        except (AssertionError, httpx.HTTPError, psutil.Error, RuntimeError, ValueError, KeyError, OSError) as error:
            broken.append(f"{rule.__name__} could not be checked: {type(error).__name__}: {error}")


def supervisor_is_well(server: LiveServer) -> Iterator[str]:
    """U1: the supervisor answers, and its loop was never late."""
    status = server.http.get("/admin/status").json()
    lag_seconds = status["loop_lag_max_seconds"]
    if lag_seconds >= limits.LOOP_LAG_SUSPECT_SECONDS + server.tolerated_lag_seconds:
        yield f"U1: the loop was late by {lag_seconds:.3f} s"


def every_request_ended_once(server: LiveServer) -> Iterator[str]:
    """U2, from the supervisor's side: nothing is still counted as running or waiting when nobody waits for it."""

    def open_requests() -> int:
        status = server.http.get("/admin/status").json()
        return int(status["in_flight_requests"]) + int(status["waiting_requests"])

    try:
        wait_until(lambda: open_requests() == 0, SETTLE_SECONDS, "requests to end")
    except AssertionError:
        yield f"U2: {open_requests()} requests never ended"


def every_stream_ended_once(server: LiveServer) -> Iterator[str]:
    """U2, from the client's side: a stream ends with [DONE] or one error, and nothing follows."""
    for number, payloads in enumerate(server.streams_read):
        ends = [index for index, payload in enumerate(payloads) if payload == "[DONE]" or "error" in json.loads(payload)]
        if ends != [len(payloads) - 1]:
            yield f"U2: stream {number} of {len(payloads)} events had its ends at {ends}"


def status_tells_the_truth(server: LiveServer) -> Iterator[str]:
    """U7: /readyz, /admin/workers, /v1/models and the kernel agree, as soon as no model is on its way any more."""
    wait_until(lambda: not _COMING & _states(server), COMING_SECONDS, "models on their way to arrive or fail")
    workers = server.http.get("/admin/workers").json()["workers"]
    serving = sorted(worker["model_id"] for worker in workers if worker["state"] in _SERVING)
    ready = server.http.get("/readyz").status_code == 200
    if ready != bool(serving):
        yield f"U7: /readyz says {'ready' if ready else 'not ready'} while {serving or 'nothing'} is served"
    listed = sorted(model["id"] for model in server.http.get("/v1/models").json()["data"])
    if not set(serving) <= set(listed):
        yield f"U7: {serving} are served, /v1/models lists {listed}"
    children = {child.pid for child in server.children()}
    for worker in workers:
        if worker["state"] in _SERVING and worker["pid"] not in children:
            yield f"U7: {worker['model_id']} is said to be {worker['state']} in process {worker['pid']}, which is not there"


def _states(server: LiveServer) -> set[str]:
    return {worker["state"] for worker in server.http.get("/admin/workers").json()["workers"]}


def next_request_succeeds(server: LiveServer) -> Iterator[str]:
    """U6: a model that nobody has touched is loaded and answers."""
    if server.expects_no_loads:
        return
    model_id = server.script("afterwards", "answers: [{pieces: ['well']}]")
    loaded = server.http.post("/admin/models/load", json={"model_id": model_id}, timeout=NEXT_REQUEST_SECONDS)
    if loaded.status_code != 200:
        yield f"U6: the next load was answered {loaded.status_code}: {loaded.text}"
        return
    answer = server.chat(model_id)
    if answer.status_code != 200 or answer.json()["choices"][0]["message"]["content"] != "well":
        yield f"U6: the next request was answered {answer.status_code}: {answer.text}"


def nothing_accumulated(server: LiveServer) -> Iterator[str]:
    """U5: with every model unloaded and our connections closed, descriptors and threads are what they were at the start."""
    for worker in server.http.get("/admin/workers").json()["workers"]:
        server.http.post("/admin/models/unload", json={"model_id": worker["model_id"]})
    server.close()
    try:
        wait_until(lambda: not server.children() and not _surplus(server), SETTLE_SECONDS, "descriptors and threads to go")
    except AssertionError:
        if server.children():
            yield f"U5: processes are left with every model unloaded: {server.children()}"
        yield from (f"U5: {text}" for text in _surplus(server))


def _surplus(server: LiveServer) -> list[str]:
    surplus = descriptor_kinds(server.pid) - server.descriptors_at_start - _ZMQ_CONTEXT
    found = [f"{count} more of descriptor {kind}" for kind, count in sorted(surplus.items())]
    threads = thread_count(server.pid) - server.threads_at_start
    if threads > _THREADS_ON_DEMAND_MAX:
        found.append(f"{threads} more threads")
    return found


def stops_in_order(server: LiveServer) -> Iterator[str]:
    """U1: asked to stop, it exits 0."""
    code = server.terminate()
    if code != 0:
        yield f"U1: the supervisor stopped with exit code {code}"


def no_process_remains(server: LiveServer) -> Iterator[str]:
    """U4: of a stopped server no process is left, whoever its parent is now."""
    try:
        server.assert_no_worker_is_left(SETTLE_SECONDS)
    except AssertionError as error:
        yield f"U4: {error}"


def no_file_remains(server: LiveServer) -> Iterator[str]:
    """U5: no temporary file in the home; after a stop in order no run directory."""
    if server.was_killed:
        return
    leftovers = sorted(path.name for path in server.home.glob("**/*.lmx-tmp"))
    if leftovers and not server.may_leave_unfinished_files:
        yield f"U5: temporary files are left: {leftovers}"
    if server.run_dir is not None and server.run_dir.exists():
        yield f"U5: the run directory {server.run_dir} is left"


def crash_bundles_match(server: LiveServer) -> Iterator[str]:
    """U8: one bundle per crash, with the right reason, and no word of a prompt in any file."""
    directory = server.home / "crashes"
    if not directory.exists():
        return
    found = Counter(json.loads(path.read_text())["reason"] for path in directory.glob("*/summary.json"))
    if server.may_crash_anyhow:
        found.clear()
    for reason, count in server.expected_crashes:
        seen = found.pop(reason, 0)
        if (count is None and seen == 0) or (count is not None and seen != min(count, limits.CRASH_BUNDLES_MAX)):
            yield f"U8: {seen} crash bundles say {reason}, expected {count or 'some'}"
    if found:
        yield f"U8: crash bundles without a crash that was expected: {dict(found)}"
    if server.prompt_canary:
        yield from (f"U8: {path} holds text of a prompt" for path in _files(directory) if _holds(path, server.prompt_canary))


def log_is_clean(server: LiveServer) -> Iterator[str]:
    """U9: no unhandled exception in the log, and no prompt."""
    for line in server.log().splitlines():
        said = [words for words in _LOG_MUST_NOT_SAY if words in line]
        if said and not any(words in line for words in server.tolerated_log_lines):
            yield f"U9: the log says {said[0]!r}: {line[:2000]}"
        if server.prompt_canary and server.prompt_canary in line:
            yield f"U8: the log holds text of a prompt: {line[:500]}"


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("**/*") if path.is_file())


def _holds(path: Path, word: str) -> bool:
    return word.encode() in path.read_bytes()
