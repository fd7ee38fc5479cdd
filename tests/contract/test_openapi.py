"""A live server held to its own OpenAPI document: what fits the document and what does not, thrown at every operation."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from lmx_supervisor.gateway.openapi.document import document
from tests.support.live import LiveServer

MODEL = "smollm2-135m-instruct"
"""The model of the document's examples; here a scripted one, which answers the same each time."""

# Two streams have no end that a checker could wait for; tests/gateway/admin reads them.
ENDLESS = ["/admin/events", "/admin/workers/{model_id}/logs"]
interface = schemathesis.openapi.from_dict(document()).exclude(path=ENDLESS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with one scripted model."""
    home: Path = tmp_path_factory.mktemp("contract") / "home"
    running = LiveServer(home, ("--config", str(home / "config.yaml")))
    (home / "config.yaml").write_text("models:\n  warm_spare: false\n")
    running.start()
    running.script(MODEL)
    running.load(MODEL)
    yield running
    assert running.stop() == 0, running.log()


@interface.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_answer_is_a_bug_or_outside_its_schema(case: schemathesis.Case, server: LiveServer) -> None:
    """No 5xx, and status, media type and body as the document says, whatever is sent."""
    response = case.call(base_url=server.url)
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    case.validate_response(response, checks=checks)


def test_the_server_serves_the_document_it_is_held_to(server: LiveServer) -> None:
    """The tests read the document from the code; clients get the same."""
    assert httpx.get(f"{server.url}/openapi.json").json()["paths"].keys() == document()["paths"].keys()
