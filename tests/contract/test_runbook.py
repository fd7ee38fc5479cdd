"""Every command of docs/operations.md is run as it stands there, in the situation it is meant for, and does what the page says.

A command that is not run stands in a list in tests/README.md with the reason; there is no third way. What is for want of memory
is in `test_runbook_under_pressure`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.load import load_config
from tests.support.downloads import SCRIPT, hub_settings, wait_for_end
from tests.support.fake_hub import serving
from tests.support.live import STOP_SECONDS, LiveServer, wait_until
from tests.support.mlx_models import smollm2_gguf, write_tiny_mlx_model
from tests.support.operator import ADMIN_KEY, Act, Operator, Printed, Step, empty_and_safe, follow, loaded
from tests.support.runbook import UNDER_PRESSURE, Command, all_commands, block_of, not_run, sections, typed

MLX_MODEL = "mlx-community/Qwen2.5-Coder-32B-Instruct-8bit"
"""As the page calls it; here a tiny one."""
GGUF_MODEL = "some-model"
UNQUANTIZED = "meta-llama/Llama-3-8B"
DOWNLOADED = "mlx-community/DeepSeek-V3-0324-4bit"
LONG = "long.script.yaml"
CRASHES_THREE_TIMES = "faults: [{when: ready, do: exit, code: 3, lives: 3}]"
PLACEHOLDERS = {
    "MODEL_ID": MLX_MODEL,
    "/path/to/custom-config.yaml": "~/.opta-lmx/custom-config.yaml",
    # What can be fetched is called owner/name.
    '"quarantined-model"': '"org/quarantined"',
    "=quarantined-model": "=org/quarantined",
    "/quarantined-model": "/org/quarantined",
    '"corrupted-model"': '"org/corrupted"',
    "/corrupted-model": "/org/corrupted",
}
SCRIPTED = (
    "mlx-community/some-model", "mlx-community/some-new-model", "least-used-model-id", "idle-model", "largest-model",
    "largest-model-id", "essential-model-only", "smaller-model-first", "slow-model", "org/corrupted",
)  # fmt: skip


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator of a server with two real models and everything the page speaks of."""
    home = tmp_path_factory.mktemp("runbook") / "home"
    with serving() as hub:
        server = LiveServer(home, environment=hub_settings(hub) | {"LMX_SUPERVISION__RESTART_INITIAL_SECONDS": "0.05"})
        for model_id in (MLX_MODEL, UNQUANTIZED):
            write_tiny_mlx_model(home / "models" / model_id, can_write_everything=True)
        (home / "presets").mkdir()
        (home / "presets" / "code-assistant.yaml").write_text(
            f"name: code-assistant\nmodel: {MLX_MODEL}\nparameters: {{max_tokens: 9}}"
        )
        _link_or_copy(smollm2_gguf(), home / "models" / f"{GGUF_MODEL}.gguf")
        for owner in ("mlx-community", "org"):
            (home / "models" / owner).mkdir(exist_ok=True)
        for model_id in SCRIPTED:
            server.script(model_id)
        server.script("problematic-model", "faults: [{when: load, do: segfault}, {when: probe, do: segfault}]")
        server.script("some-quarantined-model", CRASHES_THREE_TIMES)
        server.script("org/quarantined", CRASHES_THREE_TIMES)
        for repo_id in ("org/quarantined", "org/corrupted"):
            hub.add(repo_id, {file.name: file.read_bytes() for file in (home / "models" / MLX_MODEL).iterdir()})
        hub.add(DOWNLOADED, {LONG: SCRIPT * 4000}).stall_after_bytes[LONG] = 100_000
        configuration: dict[str, dict[str, Any]] = {
            "security": {"admin_key": ADMIN_KEY},
            "server": {"sse_heartbeat_interval_sec": 1},
            "models": {"context_length": 512},
            "routing": {"aliases": {"code": ["not-here", MLX_MODEL]}},
            "journaling": {"enabled": True},
        }
        types = Operator(server, configuration, dict(PLACEHOLDERS), hub)
        types.write_configuration()
        try:
            types.serve({}, [])
            yield types
            types.stop()
        finally:
            server.abandon()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# --- situations -------------------------------------------------------------------------------------------------------------


def unloaded(model_id: str) -> Act:
    """This model is not served."""
    return lambda operator: operator.server.http.post("/admin/models/unload", json={"model_id": model_id}) and None


def quarantined(model_id: str) -> Act:
    """This model has crashed three times in a row."""

    def make_it_so(operator: Operator) -> None:
        operator.server.http.post("/admin/models/load", json={"model_id": model_id})
        for _ in range(2):
            if operator.server.worker(model_id).get("state") != "quarantined":
                operator.server.http.post("/admin/models/load", json={"model_id": model_id})
        operator.server.wait_for_state(model_id, "quarantined")

    return make_it_so


def released(model_id: str) -> Callable[[Operator, Printed], None]:
    """It serves, and is no longer quarantined."""

    def check(operator: Operator, _: Printed) -> None:
        assert operator.server.chat(model_id).status_code == 200
        assert operator.server.worker(model_id)["readiness"]["state"] == "routable"

    return check


def in_a_crash_loop(operator: Operator) -> None:
    """A model was loaded when the service crashed the first of three times."""
    operator.serve({}, [])
    operator.server.load("smaller-model-first")
    state = operator.server.home / "runtime-state.json"
    wait_until(lambda: "smaller-model-first" in json.loads(state.read_text())["loaded_models"], 10.0, "the state file")
    operator.crash_again()
    operator.crash_again()


def served_again(model_id: str) -> Callable[[Operator, Printed], None]:
    """The model arrives and is loaded."""
    return lambda operator, _: operator.server.wait_for_state(model_id, "ready", seconds=60) and None


def empty(operator: Operator, _: Printed) -> None:
    """Nothing was loaded, as the configuration says."""
    status = operator.server.http.get("/admin/status").json()
    assert (status["safe_mode"], status["loaded_models"]) == (False, 0)


def with_a_damaged_state_file(operator: Operator) -> None:
    """The service is down, and its state file is no JSON."""
    operator.stop()
    (operator.server.home / "runtime-state.json").write_text('{"loaded_models": [')


def with_a_registry(operator: Operator) -> None:
    """A load that is written down."""
    operator.server.load("idle-model")
    wait_until((operator.server.home / "compatibility-registry.json").exists, 10.0, "the registry")


def with_a_custom_file(operator: Operator) -> None:
    """The configuration under another name."""
    shutil.copyfile(operator.server.home / "config.yaml", operator.server.home / "custom-config.yaml")


def download_stands_still(operator: Operator) -> None:
    """A part of the model has come."""
    operator.hub.wait_until_stalled()


def download_goes_on(operator: Operator, printed: Printed) -> None:
    """To its end."""
    operator.hub.stop_stalling()
    assert wait_for_end(operator.server, printed.document["download_id"])["status"] == "completed"


def remember(placeholder: str, name: str) -> Callable[[Operator, Printed], None]:
    """What a later command has a placeholder for."""
    return lambda operator, printed: operator.placeholders.update({placeholder: printed.document[name]})


def has_a_journal(operator: Operator) -> None:
    """The page of this run is written."""
    directory = operator.server.home / "session-logs"
    wait_until(lambda: any(directory.glob("*.md")), 10.0, "a session log")


def remember_a_page(operator: Operator, printed: Printed) -> None:
    """The name of a session log, for the command that reads one."""
    names = (shown["filename"] for shown in printed.document)
    operator.placeholders["FILENAME"] = next(name for name in names if name.endswith(".md"))


def quantized(operator: Operator, printed: Printed) -> None:
    """The job comes to its end, and a good one."""
    path = f"/admin/quantize/{printed.document['job_id']}"
    over = ("completed", "failed", "cancelled")
    wait_until(lambda: operator.server.http.get(path).json()["status"] in over, 120.0, "the job to be over")
    assert operator.server.http.get(path).json()["status"] == "completed", operator.server.http.get(path).text


def says(*words: str) -> Callable[[Operator, Printed], None]:
    """The text has these words."""

    def check(_: Operator, printed: Printed) -> None:
        assert [word for word in words if word not in printed.text] == [], printed.text

    return check


def is_quarantined(_: Operator, printed: Printed) -> None:
    """`loaded` shows the model, with the reason."""
    shown = {model["id"]: model["readiness"] for model in printed.document["loaded"]}
    assert (shown["org/quarantined"]["state"], shown["org/quarantined"]["reason"]) == ("quarantined", "crash_loop:3")


def in_a_crash_loop_again(operator: Operator) -> None:
    """Two starts of the three; the third is the page's."""
    operator.serve({}, [])
    operator.crash_again()
    operator.server.kill()


def still_has_its_models(operator: Operator, _: Printed) -> None:
    """Starting from scratch keeps what is large."""
    here = {model["repo_id"] for model in operator.server.http.get("/admin/models/available").json()}
    assert {MLX_MODEL, GGUF_MODEL} <= here


# --- commands that are not simply typed -------------------------------------------------------------------------------------


def set_variable(operator: Operator, command: Command) -> Printed:
    """A variable is a key, with that value; `cloud` without both keys is refused, as the page says."""
    name, _, value = command.text.partition("#")[0].strip().partition("=")
    key = command.text.partition("# ")[2].partition(":")[0].strip()
    try:
        loaded = load_config(file=None, flags={}, environ={name: value}, home=operator.server.home / "nowhere")
    except ConfigError as refusal:
        assert name.endswith("PROFILE") and "profile is cloud" in str(refusal)
    else:
        section, _, field = key.partition(".")
        read = getattr(getattr(loaded.config, section), field)
        assert (f"{read:g}" if isinstance(read, float) else str(read)) == value
    return Printed(None, "")


def other_asgi_server(operator: Operator, command: Command) -> Printed:
    """It serves under Hypercorn's own command line, and stops in order."""
    operator.stop()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = command.text.replace("127.0.0.1:1234", address).split()
    environment = {**os.environ, "LMX_HOME": str(operator.server.home)}
    log = operator.server.log_path.open("ab")
    with log, subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: _answers(f"http://{address}/healthz"), 30.0, "the service under hypercorn")
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_SECONDS)
    assert code == 0, operator.server.log()
    operator.serve({}, [])
    return Printed(None, "")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def follow_events(operator: Operator, command: Command) -> Printed:
    """The first event; without one to tell it is a heartbeat."""
    lines = operator.first_lines(command, until="data: ")
    assert any(line.startswith("event: ") for line in lines), lines
    return Printed(200, "\n".join(lines))


def stop_the_one_it_names(operator: Operator, command: Command) -> Printed:
    """`pgrep` finds the supervisor and none of its workers; the signal goes to ours alone, as others may run here."""
    operator.server.load("idle-model")
    found = {int(pid) for pid in subprocess.run(["pgrep", "-f", "opta_lmx"], capture_output=True, check=True).stdout.split()}
    assert operator.server.pid in found
    assert found.isdisjoint(child.pid for child in operator.server.children())
    return operator.type(command)


STEPS = {
    **{f"1.2/{number}": Step(run=set_variable) for number in range(1, 9)},
    "1.3/3": Step(before=with_a_custom_file),
    "1.3/4": Step(after=empty_and_safe),
    "1.3/5": Step(run=other_asgi_server),
    "1.4/1": Step(run=stop_the_one_it_names),
    "1.4/2": Step(after=lambda operator, _: operator.serve({}, [])),
    "1.6/2": Step(before=loaded(MLX_MODEL)),
    "2.1/1": Step(before=loaded(MLX_MODEL, GGUF_MODEL)),
    "2.2/1": Step(before=unloaded(MLX_MODEL)),
    "2.2/3": Step(before=unloaded(MLX_MODEL)),
    "2.2/4": Step(before=quarantined("some-quarantined-model"), after=released("some-quarantined-model")),
    "2.2/5": Step(before=unloaded(GGUF_MODEL)),
    "2.3/1": Step(before=loaded(MLX_MODEL)),
    "2.4/1": Step(after=remember("dl-xxx", "download_id")),
    "2.4/2": Step(before=download_stands_still, after=download_goes_on),
    "2.7/1": Step(before=loaded(MLX_MODEL)),
    "2.8/1": Step(before=loaded(MLX_MODEL)),
    "2.10/1": Step(before=loaded(MLX_MODEL)),
    "2.14/1": Step(before=loaded(MLX_MODEL)),
    "2.15/1": Step(after=remember("JOB_ID", "job_id")),
    "2.15/2": Step(after=quantized),
    "2.16/1": Step(before=loaded(MLX_MODEL)),
    "2.16/2": Step(before=loaded(MLX_MODEL), after=says("data: {", "data: [DONE]")),
    "3.1/1": Step(409),
    "3.5/3": Step(before=loaded(MLX_MODEL)),
    "4.5/1": Step(before=has_a_journal, after=remember_a_page),
    "4.5/2": Step(after=says("## Summary", "## Status Changes")),
    "3.3/1": Step(before=in_a_crash_loop),
    "3.3/2": Step(503),
    "3.3/4": Step(after=says("Previously loaded: [", "'smaller-model-first'", "Clean shutdown: False", "Startup count: 3")),
    "3.3/10": Step(before=Operator.stop),
    "3.4/1": Step(before=quarantined("org/quarantined"), after=is_quarantined),
    "3.4/4": Step(422, after=says("model_unsupported_backend")),
    "3.4/5": Step(after=released("org/quarantined")),
    "3.4/8": Step(202, after=served_again("org/quarantined")),
    "3.5/8": Step(before=loaded("idle-model")),
    "4.1/1": Step(after=says("lmx_requests_total", "lmx_memory_used_gb", "lmx_uptime_seconds")),
    "4.3/1": Step(run=follow_events),
    "5.2/1": Step(before=lambda operator: operator.write_configuration({"models.auto_load": ["idle-model"]})),
    "5.2/2": Step(after=empty_and_safe),
    "5.2/4": Step(after=empty),
    "5.2/5": Step(before=in_a_crash_loop_again, after=empty_and_safe),
    "5.3/1": Step(before=with_a_damaged_state_file),
    "5.3/4": Step(before=with_a_registry),
    "5.3/6": Step(before=loaded("org/corrupted")),
    "5.3/8": Step(202, after=served_again("org/corrupted")),
    "5.4/9": Step(after=still_has_its_models),
}
"""By the command's name."""


def test_what_is_listed_as_not_run_is_in_the_page() -> None:
    """The list names real commands, by what they are, and none that has a step here; every step has its command."""
    commands = {command.name: command for command in all_commands()}
    listed = not_run()
    assert listed, "the list in tests/README.md is gone"
    assert {name: commands[name].short if name in commands else "not in the page" for name in listed} == listed
    assert not listed.keys() & STEPS.keys()
    assert commands.keys() >= STEPS.keys()


@pytest.mark.real
@pytest.mark.parametrize("section", [section for section in sections() if section not in UNDER_PRESSURE])
def test_the_commands_of_a_section_do_what_the_page_says(operator: Operator, section: str) -> None:
    """Each in turn, in the situation it is meant for: status, documented fields, and what it is good for."""
    if not operator.is_on:
        operator.serve({}, [])
    follow(operator, typed(section), STEPS)


def test_the_predecessors_configuration_starts_lmx(tmp_path: Path) -> None:
    """Appendix B as it stands, but for what belongs to this machine: its address and its models."""
    (tmp_path / "config.yaml").write_text(block_of("B", "yaml"))
    environment = {"LMX_SERVER__HOST": "127.0.0.1", "LMX_MODELS__MODELS_DIRECTORY": str(tmp_path / "models")}
    server = LiveServer(tmp_path, environment=environment)
    try:
        server.start()
        assert server.http.get("/admin/status").json()["memory"]["threshold_percent"] == 90
        assert server.stop() == 0, server.log()
    finally:
        server.abandon()
    assert "config_remark" in server.log()
    assert "models.loader_timeout_sec is called supervision.load_stall_seconds now" in server.log()
