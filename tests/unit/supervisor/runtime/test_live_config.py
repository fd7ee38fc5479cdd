"""The configuration in force, and its reload from a real file."""

import asyncio
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.load import load_config
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.live_config import LiveConfig


def live_config(home: Path, applied: list[Config]) -> LiveConfig:
    """On the file in this home; what is applied is kept."""
    return LiveConfig(load_config(file=None, flags={}, environ={}, home=home), applied.append)


async def test_a_changed_file_is_put_in_force_and_handed_on(tmp_path: Path) -> None:
    """Readers see the new configuration, and those that keep a copy are given it."""
    applied: list[Config] = []
    live = live_config(tmp_path, applied)
    (tmp_path / "config.yaml").write_text("models: {queue_per_model: 5}")
    reload = await live.reload()

    assert reload.updated == ("models.queue_per_model",)
    assert live.config.models.queue_per_model == 5
    assert applied == [live.config]


@pytest.mark.parametrize(
    ("text", "words", "param"),
    [
        ("models: {queue_per_modle: 5}", "did you mean 'models.queue_per_model'", "models.queue_per_modle"),
        ("models: {queue_per_model: many}", "expected a whole number", "models.queue_per_model"),
        ("models: [", "not valid YAML", None),
        ("security: {admin_key: [hush]}", "expected a text", "security.admin_key"),
    ],
)
async def test_a_bad_file_changes_nothing(tmp_path: Path, text: str, words: str, param: str | None) -> None:
    """The refusal names the file, the key and the reason, and never the value of a secret."""
    applied: list[Config] = []
    live = live_config(tmp_path, applied)
    before = live.config
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(Refusal) as caught:
        await live.reload()

    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, param)
    assert words in caught.value.message
    assert str(tmp_path / "config.yaml") in caught.value.message
    assert "hush" not in caught.value.message
    assert (live.config, applied) == (before, [])


async def test_reloads_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    """Many at once: each sees a whole configuration, the change is told once."""
    live = live_config(tmp_path, [])
    (tmp_path / "config.yaml").write_text("models: {queue_per_model: 5}")
    reloads = await asyncio.gather(*(live.reload() for _ in range(10)))

    assert [reload.updated for reload in reloads if reload.updated] == [("models.queue_per_model",)]
