"""Workers that compute at the same time share the host, and nobody's prompt starves somebody else's stream."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from lmx_protocol.limits import PREFILL_RATIO_BESIDE_DECODES
from lmx_supervisor.observe.processors import count_processors
from tests.support.live import LiveServer, wait_until

STREAM = "{sharing: %s, answers: [{pieces: [x], tokens: 100000, token_seconds: 0.01}]}"
PROMPT = "{sharing: %s, prefill: {chunk_seconds: 0.2}, context_length: 100000}"
LONG_PROMPT = "word " * 20_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Two models that compute with threads, and two that compute on a device that cannot be divided."""
    # A spare that comes during a test would look like something that the test left behind.
    server = LiveServer(tmp_path_factory.mktemp("home"), environment={"LMX_MODELS__WARM_SPARE": "false"}).start()
    for sharing in ("threads", "time"):
        server.load(server.script(f"stream-{sharing}", STREAM % sharing))
        server.load(server.script(f"prompt-{sharing}", PROMPT % sharing), max_context_length=100_000)
    yield server
    server.stop()


def granted(server: LiveServer, model_id: str) -> tuple[Any, Any]:
    """What a worker was told last to use of the host."""
    worker = server.worker(model_id)
    return worker["threads"], worker["prefill_ratio"]


@pytest.mark.parametrize(
    ("sharing", "beside"),
    [("threads", ((count_processors() + 1) // 2, 1.0)), ("time", (1, 1.0))],
)
def test_a_stream_keeps_its_part_beside_a_prompt(server: LiveServer, sharing: str, beside: tuple[int, float]) -> None:
    """While both compute, cores are halved, or where nothing can be divided the prompt is paced; alone, the stream has all."""
    stream, prompt = f"stream-{sharing}", f"prompt-{sharing}"
    alone = (count_processors() if sharing == "threads" else 1, 1.0)
    pieces = server.stream(stream, max_tokens=100_000)
    list(islice(pieces, 3))
    assert granted(server, stream) == alone
    long_prompt = server.http.send(
        server.http.build_request("POST", "/v1/chat/completions", json=server.chat_body(prompt, LONG_PROMPT, stream=True)),
        stream=True,
    )
    paced = PREFILL_RATIO_BESIDE_DECODES if sharing == "time" or count_processors() < 2 else 1.0
    wait_until(lambda: granted(server, prompt) == (max(1, count_processors() // 2), paced), 10, "the prompt to get its part")
    assert granted(server, stream) == beside
    long_prompt.close()
    wait_until(lambda: granted(server, stream) == alone, 10, "the stream to have all again")
    pieces.close()
