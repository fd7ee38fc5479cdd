"""What is reserved for a real model, against what its worker costs at its peak."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.live import LiveServer, wait_until
from tests.support.mlx_models import smollm2_gguf, write_tiny_mlx_model

pytestmark = pytest.mark.real

ERROR_MAX = 0.15
CLIENTS = 2
HOT = {"LMX_MODELS__WARM_SPARE": "false", "LMX_MODELS__SLOTS": str(CLIENTS), "LMX_MODELS__CONTEXT_LENGTH": "4096"}


@pytest.mark.parametrize("kind", ["gguf", "mlx"])
def test_the_reservation_is_close_to_the_peak(serve: Callable[..., LiveServer], tmp_path: Path, kind: str) -> None:
    """The demo model on llama.cpp and a tiny one on MLX: within 15 % of what was measured after they answered."""
    path = smollm2_gguf() if kind == "gguf" else write_tiny_mlx_model(tmp_path / "tiny")
    server = serve(**HOT)
    server.load("model", path=str(path))
    for number in range(CLIENTS):
        answer = server.chat("model", f"hello {number}", max_tokens=16, temperature=0)
        assert answer.status_code == 200, answer.text
    after = server.worker("model")["heartbeat_age_seconds"]
    # The footprint is told with each heartbeat: wait for one from after the answers.
    wait_until(lambda: server.worker("model")["heartbeat_age_seconds"] < after, 10.0, "the next heartbeat")
    worker = server.worker("model")

    assert worker["reserved_bytes"] == pytest.approx(worker["peak_footprint_bytes"], rel=ERROR_MAX)
