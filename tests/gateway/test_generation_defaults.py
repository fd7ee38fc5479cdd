"""What a model's requests default to, in every dialect: for what the client leaves out, and for nothing else."""

from typing import Any

import httpx
import msgspec
import pytest

from lmx_protocol.messages import GenerateRequest, Sampling
from lmx_supervisor.core.load_profile import GenerationDefaults, LoadProfile
from tests.gateway.service import MODEL, FedService, worker_view

DEFAULTS = GenerationDefaults(
    max_tokens=7,
    temperature=0.25,
    top_p=0.5,
    top_k=3,
    min_p=0.125,
    repetition_penalty=1.5,
    frequency_penalty=1.0,
    presence_penalty=-1.0,
    stop=("END",),
)
SAMPLING = Sampling(
    temperature=0.25,
    top_p=0.5,
    top_k=3,
    min_p=0.125,
    repeat_penalty=1.5,
    frequency_penalty=1.0,
    presence_penalty=-1.0,
)
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES},
}
MAX_TOKENS = {"/v1/responses": "max_output_tokens"}
STOP = {"/v1/messages": "stop_sequences", "/v1/responses": None}


async def asked(client: httpx.AsyncClient, service: FedService, path: str, **fields: Any) -> GenerateRequest:
    """What reaches the service."""
    response = await client.post(path, json={"model": MODEL, **BODIES[path], **fields})
    assert 200 == response.status_code, response.text
    request = service.answers[-1].request
    assert isinstance(request, GenerateRequest)
    return request


@pytest.fixture
def tuned(service: FedService) -> FedService:
    """A service whose model has defaults of its own."""
    service.workers = [msgspec.structs.replace(worker_view(), performance=LoadProfile(generation=DEFAULTS))]
    return service


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_left_out_is_the_models_default(client: httpx.AsyncClient, tuned: FedService, path: str) -> None:
    """Every one of them, whatever the dialect's own default is."""
    request = await asked(client, tuned, path)

    assert (7, ("END",), SAMPLING) == (request.max_tokens, request.stop, request.sampling)


@pytest.mark.parametrize("path", BODIES)
async def test_what_the_client_says_wins(client: httpx.AsyncClient, tuned: FedService, path: str) -> None:
    """Zero and the empty list are said, too; the defaults for the rest stay in force."""
    stop_name = STOP.get(path, "stop")
    said = {"temperature": 0, MAX_TOKENS.get(path, "max_tokens"): 9, **({stop_name: []} if stop_name else {})}
    request = await asked(client, tuned, path, **said)

    assert (9, msgspec.structs.replace(SAMPLING, temperature=0.0)) == (request.max_tokens, request.sampling)
    assert (() if stop_name else ("END",)) == request.stop


@pytest.mark.parametrize("path", BODIES)
async def test_a_model_without_defaults_has_lmxs_own(client: httpx.AsyncClient, service: FedService, path: str) -> None:
    """Nothing is invented where nothing was tuned; Anthropic's dialect keeps its vendor's temperature."""
    request = await asked(client, service, path)

    assert (Sampling(temperature=1.0) if path == "/v1/messages" else Sampling()) == request.sampling
    assert () == request.stop
