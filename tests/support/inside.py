"""The whole service on the test's own loop, with real workers: for faults that no signal and no file can inject."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lmx_protocol.messages import Cancelled, Failed, Finished, GenerateRequest, Message, Text
from lmx_supervisor.config.load import load_config
from lmx_supervisor.core.service import LoadOrder, Origin
from lmx_supervisor.host import Running, running_service
from lmx_supervisor.observe.log_format import Redaction

COUNTING = "answers: [{pieces: ['on ', 'and '], tokens: 200, token_seconds: 0.02}]"
COUNTED_WORDS = 200


@asynccontextmanager
async def service(home: Path, script: str = COUNTING, **environment: str) -> AsyncIterator[Running]:
    """A service with the scripted model `m` loaded, configured by `environment`."""
    (home / "models").mkdir(parents=True)
    (home / "models" / "m.script.yaml").write_text(script)
    loaded = load_config(file=None, flags={}, environ={"LMX_SERVER__DRAIN_SECONDS": "1", **environment}, home=home)
    async with running_service(loaded, home, {}, Redaction(())) as running:
        await running.service.load(LoadOrder(model_id="m"))
        yield running


def request(request_id: str) -> GenerateRequest:
    """A chat request to `m`."""
    return GenerateRequest(request_id=request_id, model_id="m", messages=(Message(role="user", content="go"),))


async def ask(running: Running, request_id: str) -> tuple[str, Finished | Failed | Cancelled]:
    """The text of an answer and its terminal event."""
    answer = running.service.submit(request(request_id), Origin())
    said = ""
    while not isinstance(event := await answer.next_event(), Finished | Failed | Cancelled):
        said += event.text if isinstance(event, Text) else ""
    return said, event
