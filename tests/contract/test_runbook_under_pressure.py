"""What docs/operations.md says to do when memory is short (3.2, 3.6, 5.1), typed step by step while it is short.

A real service, on a machine that is said to be small: its models fill it, programs that are made up take the rest. The commands
are read from the page, as in `test_runbook`. `integration/test_memory.py` has the same pressure from the kernel.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from tests.support.live import LiveServer, wait_until
from tests.support.operator import ADMIN_KEY, Act, Operator, Printed, Step, empty_and_safe, follow, loaded
from tests.support.promql import alert_rules, firing, scraped
from tests.support.runbook import UNDER_PRESSURE, block_of, sections, text_of, typed
from tests.support.small_machine import SmallMachine

TOTAL_BYTES = 4 * 1024**3
MODEL_BYTES = 100_000_000
"""A model and its process are some 3 % of the machine: of six, one is too little to end the pressure, and all are enough."""
MARK_PERCENT = 95.0
"""`memory.load_shedding_percent` as it comes; loads end at 90."""
ENDED_SECONDS = 10.0
"""The memory is read four times a second; the rest is for a machine that has other things to do."""
SERVED = "served-meanwhile"
SIX = (SERVED, "least-used-model-id", "largest-model", "another", "one-more", "largest-model-id")
NEEDED = "essential-model-only"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> SmallMachine:
    """A machine of 4 GiB."""
    return SmallMachine(TOTAL_BYTES, tmp_path_factory.mktemp("machine") / "others")


@pytest.fixture(scope="module")
def started(machine: SmallMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator of a service on that machine."""
    machine.others_take(10)
    server = LiveServer(tmp_path_factory.mktemp("pressure") / "home", command=machine.command)
    for model_id in (*SIX, NEEDED):
        server.script(model_id, f"load: {{bytes: {MODEL_BYTES}, ballast_bytes: {MODEL_BYTES}}}")
    operator = Operator(server, {"security": {"admin_key": ADMIN_KEY}, "models": {"warm_spare": False}})
    operator.write_configuration()
    try:
        operator.serve({}, [])
        yield operator
        operator.stop()
    finally:
        server.abandon()


@pytest.fixture
def operator(started: Operator, machine: SmallMachine) -> Operator:
    """The same, with the memory of the machine nearly all free, no model, and the settings as they come."""
    machine.others_take(10, started.server)
    started.write_configuration({"memory.load_shedding_percent": MARK_PERCENT})
    assert started.server.http.post("/admin/config/reload").status_code == 200
    for worker in started.server.http.get("/admin/workers").json()["workers"]:
        started.server.http.post("/admin/models/unload", json={"model_id": worker["model_id"]})
    return started


def is_shed(response: httpx.Response) -> bool:
    """Whether a request was refused for want of memory, in the words and with the header of the page."""
    if response.status_code != 503 or response.headers.get("Retry-After") != "30":
        return False
    return bool(response.json() == json.loads(block_of("3.6", "json")))


def served(operator: Operator, model_id: str = SERVED) -> None:
    """Requests are answered, and the service calls itself well."""
    assert not operator.server.http.get("/admin/memory").json()["load_shedding"]
    assert operator.server.chat(model_id).status_code == 200
    assert operator.server.http.get("/admin/health").json()["status"] == "ok"


def served_again(operator: Operator, _: Printed) -> None:
    """The pressure is over, without anything else being done."""
    server = operator.server
    wait_until(lambda: not server.http.get("/admin/memory").json()["load_shedding"], ENDED_SECONDS, "requests to be let in")
    served(operator)


def let_in_although_it_is_full(operator: Operator, _: Printed) -> None:
    """Above the mark as it comes, below the one that was set."""
    server = operator.server
    assert server.http.get("/admin/memory").json()["usage_percent"] > MARK_PERCENT
    wait_until(lambda: server.chat(SERVED).status_code == 200, ENDED_SECONDS, "requests to be let in")


def still_shed(operator: Operator, _: Printed) -> None:
    """What was done is not enough."""
    assert is_shed(operator.server.chat(SERVED))


def up_and_empty(operator: Operator, printed: Printed) -> None:
    """Nothing was loaded, and the models' memory is back."""
    empty_and_safe(operator, printed)
    memory = operator.server.http.get("/admin/memory").json()
    assert (memory["models"], memory["load_shedding"]) == ({}, False)


def serves_what_is_needed(operator: Operator, _: Printed) -> None:
    """The operator ends with a healthy service."""
    served(operator, NEEDED)


def in_turn(*acts: Act) -> Act:
    """One after the other."""

    def act(operator: Operator) -> None:
        for each in acts:
            each(operator)

    return act


def steps(machine: SmallMachine) -> dict[str, Step]:
    """By the command's name; what stands between them is what happens to the machine."""

    def filled(percent: float) -> Act:
        return lambda operator: machine.fill_to(percent, operator.server)

    def others_take(percent: float) -> Act:
        return lambda operator: machine.others_take(percent, operator.server)

    def shed(operator: Operator) -> None:
        assert is_shed(operator.server.chat(SERVED))

    def alert(operator: Operator) -> None:
        samples = scraped(operator.server.http.get("/admin/metrics").text)
        assert firing(dict(alert_rules())["OptaLMXMemoryPressure"], {}, samples, 1.0)

    def shows_who_is_large(operator: Operator, printed: Printed) -> None:
        shown = {model["id"]: model["memory_gb"] for model in printed.document["loaded"]}
        assert shown.keys() == {SERVED, "least-used-model-id"}
        assert all(size_gb * 1024**3 > MODEL_BYTES for size_gb in shown.values())

    return {
        "3.2/1": Step(before=in_turn(loaded(SERVED, "least-used-model-id"), filled(96.2), shed, alert)),
        "3.2/2": Step(after=shows_who_is_large),
        "3.2/4": Step(after=served_again),
        "3.2/5": Step(before=in_turn(filled(96.2), shed), after=let_in_although_it_is_full),
        "3.2/6": Step(before=in_turn(filled(98), shed), after=still_shed),
        "3.6/1": Step(before=in_turn(loaded(SERVED, "largest-model"), filled(96.5), shed)),
        "3.6/4": Step(after=served_again),
        "3.6/5": Step(before=in_turn(others_take(10), loaded("least-used-model-id"), filled(96.5), shed)),
        "3.6/6": Step(after=up_and_empty),
        "3.6/7": Step(before=others_take(60), after=serves_what_is_needed),
        "5.1/1": Step(before=in_turn(loaded(*SIX), filled(99.4), shed), after=still_shed),
        "5.1/4": Step(after=up_and_empty),
        "5.1/7": Step(after=serves_what_is_needed),
    }


def test_every_step_has_its_command(machine: SmallMachine) -> None:
    """Steps are of commands that the page has; a renumbered page is noticed."""
    commands = {command.name for section in UNDER_PRESSURE for command in sections()[section]}
    assert steps(machine).keys() <= commands


@pytest.mark.parametrize("section", UNDER_PRESSURE)
def test_the_way_out_of_pressure(operator: Operator, machine: SmallMachine, section: str) -> None:
    """Every command of the section, typed while requests are refused, does what the page says; then the service is well."""
    follow(operator, typed(section), steps(machine))
    # What the third way of 3.2 frees it frees in half an hour.
    machine.others_take(10, operator.server)
    served(operator, SERVED if section == "3.2" else NEEDED)


def let_in() -> list[tuple[str, str]]:
    """Method and path of what the page says is never refused."""
    prose = text_of("3.2").rpartition("```")[2]
    _, _, listed = prose.partition("the two probes, ")
    assert listed, "docs/operations.md 3.2 does not say any more what is let in"
    named = re.findall(r"`(?:(GET|POST) )?(/[a-z/]+)`", listed)
    writes = {"/admin/models/unload", "/admin/config/reload"}
    paths = [(method or ("POST" if path in writes else "GET"), path) for method, path in named]
    return [("GET", "/healthz"), ("GET", "/readyz"), *paths]


def status_of(server: LiveServer, method: str, path: str) -> int:
    """What a request is answered with; its answer may have no end."""
    body = {"model_id": "nobody"} if method == "POST" else None
    with server.http.stream(method, path, json=body) as response:
        return response.status_code


def test_requests_are_shed_from_the_mark_on_and_up_to_it(operator: Operator, machine: SmallMachine) -> None:
    """Just below the mark they are served, just above it refused, but for what the page lists; and below it served again."""
    server = operator.server
    server.load(SERVED)
    machine.fill_to(MARK_PERCENT - 0.7, server)
    served(operator)

    machine.fill_to(MARK_PERCENT + 0.7, server)
    assert is_shed(server.chat(SERVED))
    refused = [("GET", "/v1/models"), ("GET", "/admin/status"), ("POST", "/admin/models/load"), ("GET", "/nowhere")]
    assert {status_of(server, *request) for request in refused} == {503}
    # There is no model of that name to unload.
    statuses = {request: status_of(server, *request) for request in let_in()}
    assert len(statuses) == 9
    assert statuses == dict.fromkeys(statuses, 200) | {("POST", "/admin/models/unload"): 404}

    machine.fill_to(MARK_PERCENT - 0.7, server)
    served(operator)
    told = [json.loads(line) for line in server.log().splitlines() if '"load_shedding"' in line and '"active"' in line]
    assert all(line["active"] is (line["used_percent"] > line["threshold_percent"]) for line in told[-2:])
    assert all(before["active"] is not after["active"] for before, after in pairwise(told))
