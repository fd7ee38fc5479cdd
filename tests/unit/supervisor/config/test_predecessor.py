"""A configuration of the predecessor starts LMX, and says what became of its keys."""

from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.keys import all_keys, all_sections
from lmx_supervisor.config.load import LoadedConfig, Origin, load_config, values_of
from lmx_supervisor.config.predecessor import LATER_SECTIONS, OLD_KEYS, Renamed

LOADER = "supervision.load_stall_seconds"


def load(home: Path, text: str = "", *, name: str = "config.yaml", environ: dict[str, str] | None = None) -> LoadedConfig:
    """The configuration of a home with this file and environment."""
    if text:
        (home / name).write_text(text)
    return load_config(file=None, flags={}, environ=environ or {}, home=home)


def test_old_keys_point_at_keys_and_stand_in_nobodys_way() -> None:
    """No old name hides a key of today, and every new name exists."""
    assert not OLD_KEYS.keys() & all_keys().keys()
    assert not LATER_SECTIONS.keys() & all_sections().keys()
    assert {old.to for old in OLD_KEYS.values() if isinstance(old, Renamed)} <= all_keys().keys()


@pytest.mark.parametrize(
    ("key", "value", "today"),
    [
        ("models.loader_timeout_sec", 240, (LOADER, 240.0)),
        ("models.gguf_context_length", 2048, ("models.context_length", 2048)),
        ("models.gguf_gpu_layers", 0, ("models.gpu_layers", 0)),
    ],
)
def test_a_renamed_key_is_read_as_the_new_one(tmp_path: Path, key: str, value: Any, today: tuple[str, Any]) -> None:
    """From a file of either format and from the environment, with a remark that names both."""
    section, name = key.split(".")
    variable = f"LMX_{section}__{name}".upper()
    (tmp_path / "yaml").mkdir()
    (tmp_path / "toml").mkdir()
    (tmp_path / "environment").mkdir()
    from_yaml = load(tmp_path / "yaml", f"{section}: {{{name}: {value}}}")
    from_toml = load(tmp_path / "toml", f"[{section}]\n{name} = {value}\n", name="config.toml")
    from_environment = load(tmp_path / "environment", environ={variable: str(value)})

    for loaded, origin in ((from_yaml, Origin.FILE), (from_toml, Origin.FILE), (from_environment, Origin.ENVIRONMENT)):
        assert values_of(loaded.config)[today[0]] == today[1]
        assert loaded.origins[today[0]] is origin
    assert from_yaml.remarks == (f"{tmp_path}/yaml/config.yaml: {key} is called {today[0]} now, and was read as that",)
    new_variable = all_keys()[today[0]].variable
    assert from_environment.remarks == (f"environment: {variable} is called {new_variable} now, and was read as that",)


def test_the_new_name_in_the_environment_wins_over_the_old_one_in_the_file(tmp_path: Path) -> None:
    """Precedence is that of the places, whatever the name."""
    loaded = load(tmp_path, "models: {gguf_gpu_layers: 3}", environ={"LMX_MODELS__GPU_LAYERS": "5"})
    assert (loaded.config.models.gpu_layers, loaded.origins["models.gpu_layers"]) == (5, Origin.ENVIRONMENT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {gguf_gpu_layers: 3, gpu_layers: 3}", "models.gguf_gpu_layers: models.gpu_layers is there too"),
        ("models: {gguf_gpu_layers: many}", "models.gguf_gpu_layers: expected a whole number, at least -1, got 'many'"),
        ("models: {loader_timeout_sec: 0}", "models.loader_timeout_sec: expected a number, over 0 and at most 86400, got 0"),
        ("models: {use_batching: false}", "models.use_batching: only true is possible: requests are always batched"),
        ("models: {use_batching: 1}", "models.use_batching: only true is possible"),
        ("models: {embedding_model: x}", "models.embedding_model: only null is possible: a request names its model"),
        ("server: {workers: 4}", "server.workers: only 1 is possible"),
        ("rag: {enabled: true}", "rag: unknown section; LMX has no document store yet; remove the section until it has"),
    ],
)
def test_what_an_old_key_may_not_ask_for_stops_the_start(tmp_path: Path, text: str, words: str) -> None:
    """By the name the operator wrote, with the reason."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path}/config.yaml: {words}")


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("LMX_MODELS__GGUF_GPU_LAYERS", "many", "expected a whole number"),
        ("LMX_MODELS__WARMUP_ON_LOAD", "off", "only true is possible"),
        ("LMX_MODELS__WARMUP_ON_LOAD", "[", "only true is possible"),
    ],
)
def test_an_old_variable_is_refused_by_its_own_name(tmp_path: Path, variable: str, text: str, words: str) -> None:
    """As the operator wrote it."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, environ={variable: text})
    assert str(refused.value).startswith(f"environment: {variable}: {words}")


def test_what_lmx_does_anyhow_is_taken_with_a_remark(tmp_path: Path) -> None:
    """An old file says what is always so, or what nothing depends on: neither changes a value."""
    loaded = load(
        tmp_path,
        "models: {use_batching: true, loader_isolation_enabled: true, warmup_on_load: true}\n"
        "server: {timeout_sec: 300, workers: 1}",
        environ={"LMX_MODELS__EMBEDDING_MODEL": "null", "LMX_MODELS__GGUF_FALLBACK_ENABLED": "no"},
    )
    assert set(loaded.origins.values()) == {Origin.DEFAULT}
    assert len(loaded.remarks) == 7
    assert (
        f"{tmp_path}/config.yaml: server.timeout_sec has no effect: idle connections are closed after 5 seconds"
        in loaded.remarks
    )
    assert "environment: LMX_MODELS__EMBEDDING_MODEL is not needed" in "\n".join(loaded.remarks)


def test_a_file_of_today_has_no_remarks(tmp_path: Path) -> None:
    """Remarks are for old names only."""
    assert load(tmp_path, "models: {gpu_layers: 3}").remarks == ()
