"""B: a worker says what it must not say: garbage, messages out of order, another version, too much.

A million inputs that no worker would ever send are in `tests/fuzz`.
"""

import time
from pathlib import Path

import psutil
import pytest

from lmx_protocol import limits
from lmx_protocol.version import PROTOCOL_VERSION
from tests.fault.acts import LONG, SHORT_ANSWER, chat_text, ended_as_lost, error_code, pieces_in, talker
from tests.support.live import LiveServer, wait_until
from tests.support.server_log import told, wait_told
from tests.support.world import World

SUPERVISOR_GROWTH_BYTES = 64 * 1024**2
FLOOD_TOKENS = 1_000_000
FLOOD = f"""
context_length: {FLOOD_TOKENS + 1000}
answers:
  - contains: "flood"
    pieces: ["0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"]
    tokens: {FLOOD_TOKENS}
  - pieces: ["all is well"]
faults: [{{when: request, contains: "be greedy", do: ignore_credit}}]
"""


UNTRUSTED = "that worker is killed, its clients are told, and nobody else notices"


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param("garbage", marks=pytest.mark.fault("F23", UNTRUSTED)),
        pytest.param("foreign_request", marks=pytest.mark.fault("F24", UNTRUSTED)),
        pytest.param("second_hello", marks=pytest.mark.fault("F24", UNTRUSTED)),
    ],
)
def test_f23_f24_what_no_worker_may_say(world: World, lie: str) -> None:
    """Bytes that are no message, text for a request nobody made, a second Hello: it cannot be trusted any further."""
    server = world.serve()
    victim = talker(server, faults=f'{{when: token, number: 5, contains: "lie", lives: 1, do: {lie}}}')
    with world.bystander():
        payloads = list(server.stream(victim, f"{LONG} and lie"))
        wait_told(server, "worker_exited", model_id=victim, reason="protocol_violation")
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER

    assert ended_as_lost(payloads)
    world.expect_crash("protocol_violation")


@pytest.mark.fault("F24", "a hole in the numbering ends the stream; nobody gets a text with a piece missing")
def test_f24_a_gap_in_the_sequence(world: World) -> None:
    """What was delivered is a beginning of the true text, and the end says that a part got lost."""
    server = world.serve()
    victim = talker(server, faults='{when: token, number: 5, contains: "skip", lives: 1, do: seq_gap}')
    whole = "".join(("one ", "two ", "three ", "four ", "five ") * 12)
    with world.bystander():
        payloads = list(server.stream(victim, f"{LONG} and skip"))
        wait_told(server, "worker_exited", model_id=victim, reason="protocol_violation")

    assert error_code(payloads) == "internal_stream_gap"
    assert whole.startswith("".join(pieces_in(payloads)))
    world.expect_crash("protocol_violation")


@pytest.mark.fault("F24", "a second end reaches nobody")
def test_f24_a_request_that_ends_twice(world: World) -> None:
    """The client has its whole answer and one [DONE]; the worker that said it twice is replaced."""
    server = world.serve()
    victim = talker(server, faults='{when: token, number: 1, contains: "twice", lives: 1, do: double_finished}')
    with world.bystander():
        payloads = list(server.stream(victim, "say it twice"))
        wait_told(server, "worker_exited", model_id=victim, reason="protocol_violation")
        server.wait_for_state(victim, "ready")

    assert ("".join(pieces_in(payloads)), payloads.count("[DONE]")) == (SHORT_ANSWER, 1)
    world.expect_crash("protocol_violation")


@pytest.mark.fault("F25", "refused at its Hello with both versions in the reason; not tried again")
def test_f25_another_protocol_version(world: World, tmp_path: Path) -> None:
    """Half an upgrade: whoever loads the model reads which side is older."""
    boot = tmp_path / "boot.yaml"
    boot.write_text("{}")
    server = world.serve(LMX_SCRIPTED_BOOT=boot, LMX_MODELS__WARM_SPARE="false")
    with world.bystander():
        boot.write_text("faults: [{when: hello, do: wrong_version}]")
        server.script("victim")
        refused = server.http.post("/admin/models/load", json={"model_id": "victim"})
        boot.write_text("{}")
    message = refused.json()["error"]["message"]

    assert 400 <= refused.status_code < 500
    assert f"protocol {PROTOCOL_VERSION + 1}" in message
    assert f"protocol {PROTOCOL_VERSION};" in message
    assert len(told(server, "worker_spawned", model_id="victim")) == 1
    world.expect_crash("protocol")


@pytest.mark.fault("F26", "the broken connection is seen and its requests fail; nothing is lost in silence")
def test_f26_a_frame_over_the_limit(world: World) -> None:
    """libzmq drops such a frame together with the connection, and says so only to those who watch the connection."""
    server = world.serve()
    victim = talker(server, faults='{when: token, number: 5, contains: "huge", lives: 1, do: oversized}')
    with world.bystander():
        began = time.time()
        payloads = list(server.stream(victim, f"{LONG} and huge"))
        exited = wait_told(server, "worker_exited", model_id=victim, reason="protocol_violation")
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER

    world.measure("oversized frame to kill", exited.at_unix_seconds - began, "s", limits.CONNECTION_LOST_SECONDS + 2.0)
    assert error_code(payloads) in ("worker_lost", "internal_stream_gap")
    world.expect_crash("protocol_violation")


@pytest.mark.fault("F27", "killed for it, and what it sent costs the supervisor a bounded amount of memory")
def test_f27_a_worker_that_ignores_its_credit(world: World) -> None:
    """A hundred megabytes of text for a client that does not read: the credit is checked, not trusted."""
    server = world.serve()
    server.script("victim", FLOOD)
    server.load("victim", max_context_length=FLOOD_TOKENS + 1000)
    assert chat_text(server, "victim", "be greedy from now on") == "all is well"
    with world.bystander():
        before_bytes = peak_bytes = _resident_bytes(server)
        body = server.chat_body("victim", "flood me", stream=True, max_tokens=FLOOD_TOKENS)
        with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200

            def is_over() -> bool:
                nonlocal peak_bytes
                peak_bytes = max(peak_bytes, _resident_bytes(server))
                return bool(told(server, "worker_exited", model_id="victim"))

            wait_until(is_over, 30.0, "the end of the flood")
        server.wait_for_state("victim", "ready")
    growth_bytes = peak_bytes - before_bytes
    world.measure("growth of the supervisor under the flood", growth_bytes / 1024**2, "MiB", SUPERVISOR_GROWTH_BYTES / 1024**2)

    assert told(server, "worker_exited", model_id="victim")[0].fields["reason"] == "protocol_violation"
    world.expect_crash("protocol_violation")


def _resident_bytes(server: LiveServer) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)
