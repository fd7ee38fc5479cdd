"""What a reload of the configuration changes, and what it leaves for the next start."""

from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.config.load import LoadedConfig, Origin, config_of, load_config, read_again, values_of
from lmx_supervisor.config.reloading import LIVE_KEYS, plan_reload


def load(home: Path, text: str, *, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> LoadedConfig:
    """The configuration of a home with this file."""
    (home / "config.yaml").write_text(text)
    return load_config(file=None, flags=flags or {}, environ=environ or {}, home=home)


def test_every_live_key_exists() -> None:
    """A renamed key would silently stop being live."""
    assert set(all_keys()) >= LIVE_KEYS


def test_what_was_bound_or_handed_out_at_the_start_is_not_live() -> None:
    """The port, the log's outputs, the model list and the clockwork that running workers were given."""
    fixed = {"server.host", "server.port", "logging.file", "models.auto_load", "supervision.beat_interval_seconds"}
    assert fixed.isdisjoint(LIVE_KEYS)


def test_a_configuration_survives_the_way_through_flat_values(tmp_path: Path) -> None:
    """Merging works on flat values, so nothing may be lost on the way there and back."""
    config = load(tmp_path, "models: {paths: {a: /b}, auto_load: [x]}").config
    assert config_of(values_of(config)) == config


def test_live_keys_change_and_others_wait(tmp_path: Path) -> None:
    """The answer names both kinds; the configuration in force is what the answer says."""
    running = load(tmp_path, "server: {port: 1}\nmodels: {queue_per_model: 5}")
    fresh = load(tmp_path, "server: {port: 2}\nmodels: {queue_per_model: 6}\nlogging: {level: DEBUG}")
    reload = plan_reload(running, fresh)
    config = reload.loaded.config
    assert (reload.updated, reload.ignored) == (("models.queue_per_model", "logging.level"), ("server.port",))
    assert (config.server.port, config.models.queue_per_model, config.logging.level) == (1, 6, "DEBUG")
    assert reload.loaded.origins["logging.level"] is Origin.FILE


def test_an_unchanged_file_changes_nothing(tmp_path: Path) -> None:
    """Reloading twice is the same as once."""
    running = load(tmp_path, "models: {queue_per_model: 5}")
    reload = plan_reload(running, read_again(running))
    assert (reload.updated, reload.ignored) == ((), ())
    assert reload.loaded.config == running.config


def test_a_key_that_was_ignored_is_ignored_again(tmp_path: Path) -> None:
    """What waits for the next start is told with every reload until then."""
    running = load(tmp_path, "server: {port: 1}")
    fresh = load(tmp_path, "server: {port: 2}")
    once = plan_reload(running, fresh).loaded
    assert plan_reload(once, fresh).ignored == ("server.port",)


def test_flags_and_variables_of_the_start_keep_their_rank(tmp_path: Path) -> None:
    """The file cannot take back what the command line or the environment of the start said."""
    running = load(
        tmp_path,
        "logging: {level: INFO}",
        flags={"logging.level": "ERROR"},
        environ={"LMX_MODELS__QUEUE_PER_MODEL": "7", "HOME": "/nowhere"},
    )
    (tmp_path / "config.yaml").write_text("logging: {level: DEBUG}\nmodels: {queue_per_model: 9, queue_total: 50}")
    reload = plan_reload(running, read_again(running))
    assert reload.updated == ("models.queue_total",)
    assert (reload.loaded.config.logging.level, reload.loaded.config.models.queue_per_model) == ("ERROR", 7)
    assert running.source.variables == {"LMX_MODELS__QUEUE_PER_MODEL": "7"}


def test_a_file_that_is_gone_is_an_error_not_a_return_to_defaults(tmp_path: Path) -> None:
    """A deleted file must not open a service that had keys."""
    running = load(tmp_path, "security: {admin_key: hush}")
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        read_again(running)


def test_a_file_that_appears_later_is_read(tmp_path: Path) -> None:
    """Started on defaults, the service takes the file an operator writes then."""
    running = load_config(file=None, flags={}, environ={}, home=tmp_path)
    (tmp_path / "config.yaml").write_text("models: {queue_per_model: 5}")
    assert plan_reload(running, read_again(running)).updated == ("models.queue_per_model",)


def test_a_live_key_cannot_break_a_rule_with_one_that_waits(tmp_path: Path) -> None:
    """Good together in the file, bad with what runs: healthy workers beat too slowly for the new patience."""
    running = load(tmp_path, "supervision: {beat_interval_seconds: 2}")
    fresh = load(tmp_path, "supervision: {beat_interval_seconds: 0.1, beat_suspect_seconds: 1}")
    with pytest.raises(ConfigError, match="next start") as caught:
        plan_reload(running, fresh)
    assert caught.value.key == "supervision.beat_interval_seconds"
