"""The routes of probes and quantized copies."""

import httpx
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.probes import ProbeOrder
from lmx_supervisor.core.quantization.orders import COMBINATIONS, QuantizeOrder
from lmx_supervisor.core.refusal import Refusal
from tests.gateway.jobs import quantize_job
from tests.gateway.service import FedService

PROBE, QUANTIZE = "/admin/models/probe", "/admin/quantize"


async def test_a_probe_has_the_contracts_shape(client: httpx.AsyncClient, service: FedService) -> None:
    """The recommendation, and outcome and reason of each candidate; without a time it is 90 seconds."""
    answer = await client.post(PROBE, json={"model_id": "org/a"})
    await client.post(PROBE, json={"model_id": "org/a", "timeout_sec": 900, "allow_unsupported_runtime": True})
    document = answer.json()

    assert (200, "org/a", "llamacpp") == (answer.status_code, document["model_id"], document["recommended_backend"])
    assert [("llamacpp", "pass", None)] == [
        (each["backend"], each["outcome"], each["reason"]) for each in document["candidates"]
    ]
    assert [
        ProbeOrder(model_id="org/a", timeout_seconds=90),
        ProbeOrder(model_id="org/a", timeout_seconds=900, allow_failed=True),
    ] == service.jobs.probes


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model_id"),
        ({"model_id": "../x"}, "model_id"),
        ({"model_id": "m", "timeout_sec": 0}, "timeout_sec"),
        ({"model_id": "m", "timeout_sec": 901}, "timeout_sec"),
        ({"model_id": "m", "timeout_sec": "soon"}, "timeout_sec"),
        ({"model_id": "m", "allow_unsupported_runtime": 1}, "allow_unsupported_runtime"),
    ],
)
async def test_bad_probes_name_their_field(
    client: httpx.AsyncClient, service: FedService, body: dict[str, object], param: str
) -> None:
    """400 with the field, and the service never hears of it."""
    refused = await client.post(PROBE, json=body)

    assert (400, param) == (refused.status_code, refused.json()["error"]["param"])
    assert [] == service.jobs.probes


async def test_a_job_has_the_contracts_shape(client: httpx.AsyncClient, service: FedService) -> None:
    """All fields of the predecessor are there, null where nothing is known."""
    answer = await client.post(QUANTIZE, json={"source_model": "org/a", "bits": 4, "group_size": 64})
    document = answer.json()

    assert 200 == answer.status_code
    assert {
        "source_model": "org/a", "bits": 4, "group_size": 64, "mode": "affine", "status": "queued", "queue_position": 1,
        "cancel_requested": False, "cancel_requested_at": None, "failure_code": None, "exit_code": None, "signal": None,
        "worker_pid": None,
    }.items() <= document.items()  # fmt: skip
    assert [QuantizeOrder(source_model="org/a", bits=4, group_size=64, mode="affine")] == service.jobs.orders


async def test_every_combination_that_exists_is_taken(client: httpx.AsyncClient, service: FedService) -> None:
    """And what is left out is what the mode has."""
    wanted = [
        (mode, bits, group) for mode, by_bits in COMBINATIONS.items() for bits, groups in by_bits.items() for group in groups
    ]
    for mode, bits, group in wanted:
        await client.post(QUANTIZE, json={"source_model": "m", "mode": mode, "bits": bits, "group_size": group})
    for mode in COMBINATIONS:
        await client.post(QUANTIZE, json={"source_model": "m", "mode": mode})
    defaults = [("affine", 4, 64), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]

    assert 21 == len(wanted)
    assert [*wanted, *defaults] == [(order.mode, order.bits, order.group_size) for order in service.jobs.orders]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"source_model": None}, "source_model"),
        ({"source_model": "/etc"}, "source_model"),
        ({"bits": 7}, "bits"),
        ({"bits": 4.5}, "bits"),
        ({"mode": "mxfp4", "bits": 8}, "bits"),
        ({"group_size": 48}, "group_size"),
        ({"mode": "nvfp4", "group_size": 32}, "group_size"),
        ({"mode": "symmetric"}, "mode"),
        ({"output_path": ""}, "output_path"),
        ({"output_path": "/a\x00b"}, "output_path"),
    ],
)
async def test_what_cannot_be_meant_names_its_field(
    client: httpx.AsyncClient, service: FedService, fields: dict[str, object], param: str
) -> None:
    """400 with the field and what there is, and the service never hears of it."""
    refused = await client.post(QUANTIZE, json={"source_model": "m", **fields})
    error = refused.json()["error"]

    assert (400, param, "invalid_request_error") == (refused.status_code, error["param"], error["type"])
    assert [] == service.jobs.orders


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.MODEL_NOT_FOUND, 404),
        (ErrorCode.MODEL_INCOMPLETE, 409),
        (ErrorCode.OUTPUT_PATH_EXISTS, 409),
        (ErrorCode.NOT_SUPPORTED, 400),
        (ErrorCode.RATE_LIMIT_EXCEEDED, 429),
        (ErrorCode.INSUFFICIENT_DISK, 507),
    ],
)
async def test_what_stands_against_a_job(client: httpx.AsyncClient, service: FedService, code: ErrorCode, status: int) -> None:
    """Every refusal is a status that clients can branch on, with its code."""
    service.jobs.refusal = Refusal(code, "because", param="source_model")
    for path, body in ((QUANTIZE, {"source_model": "m"}), (PROBE, {"model_id": "m"})):
        refused = await client.post(path, json=body)
        assert (status, code) == (refused.status_code, refused.json()["error"]["code"])


async def test_the_list_and_one_of_it(client: httpx.AsyncClient, service: FedService) -> None:
    """As the service has them; an unknown id is 404 for a look and for a cancel."""
    service.jobs.known = {"b": quantize_job("b", status="completed"), "a": quantize_job("a")}
    listing = (await client.get(QUANTIZE)).json()

    assert (["b", "a"], 2) == ([job["job_id"] for job in listing["jobs"]], listing["count"])
    assert "completed" == (await client.get(f"{QUANTIZE}/b")).json()["status"]
    for unknown in (await client.get(f"{QUANTIZE}/x"), await client.post(f"{QUANTIZE}/x/cancel")):
        assert (404, "job_not_found") == (unknown.status_code, unknown.json()["error"]["code"])


async def test_a_cancel_says_what_it_came_to(client: httpx.AsyncClient, service: FedService) -> None:
    """Cancelled at once while it waits, 202 while its process is being ended, and no more than told when it is over."""
    service.jobs.known = {
        "waits": quantize_job("waits"),
        "runs": quantize_job("runs", status="running", queue_position=None),
        "over": quantize_job("over", status="failed", completed_at=5.0, failure_code="worker_crashed", signal=9),
    }
    answers = {name: await client.post(f"{QUANTIZE}/{name}/cancel") for name in service.jobs.known}
    told = {name: answer.json() for name, answer in answers.items()}

    assert {"waits": 200, "runs": 202, "over": 200} == {name: answer.status_code for name, answer in answers.items()}
    assert {"waits": "cancelled", "runs": "cancelling", "over": "already_terminal"} == {n: d["reason"] for n, d in told.items()}
    assert {"waits": True, "runs": False, "over": False} == {name: document["cancelled"] for name, document in told.items()}
    assert ("worker_crashed", None, 9) == (told["over"]["failure_code"], told["over"]["exit_code"], told["over"]["signal"])
