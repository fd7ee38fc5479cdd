"""How values are read and checked. Which of them wins: `test_precedence`; what is said of bad ones: `test_config_words`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.config.load import LoadedConfig, Origin, load_config
from lmx_supervisor.config.schema import Config

Load = Callable[..., LoadedConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_config` on an empty home, with everything optional."""

    def call(
        *, file: Path | None = None, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None
    ) -> LoadedConfig:
        return load_config(file=file, flags=flags or {}, environ=environ or {}, home=tmp_path)

    return call


def test_nothing_given_means_the_defaults(load: Load) -> None:
    """Without file, variables and flags the schema's defaults are in force, and every key says so."""
    loaded = load()
    assert loaded.config == Config()
    assert loaded.file is None
    assert set(loaded.origins) == set(all_keys())
    assert set(loaded.origins.values()) == {Origin.DEFAULT}


def test_yaml_and_toml_have_the_same_schema(load: Load, tmp_path: Path) -> None:
    """The same settings read the same from either format; in the home YAML is taken first."""
    (tmp_path / "config.toml").write_text('[models]\nauto_load = ["a"]\npaths = {a = "/a.gguf"}\n[server]\nbody_seconds = 7\n')
    from_toml = load()
    (tmp_path / "config.yaml").write_text("models:\n  auto_load: [a]\n  paths: {a: /a.gguf}\nserver:\n  body_seconds: 7\n")
    from_yaml = load()
    assert from_toml.config == from_yaml.config != Config()
    assert (from_toml.file, from_yaml.file) == (tmp_path / "config.toml", tmp_path / "config.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\nmodels:\n", "\ufeffserver: {}\n"])
def test_empty_files_and_sections_are_fine(load: Load, tmp_path: Path, text: str) -> None:
    """A file in which everything is commented out changes nothing."""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load().config == Config()


@pytest.mark.parametrize(
    ("variable", "text", "dotted", "value"),
    [
        ("LMX_SERVER__PORT", " 8080 ", "server.port", 8080),
        ("LMX_SERVER__BODY_SECONDS", "2.5", "server.body_seconds", 2.5),
        ("LMX_MODELS__WARM_SPARE", "Off", "models.warm_spare", False),
        ("LMX_MODELS__WARM_SPARE", "yes", "models.warm_spare", True),
        ("LMX_MODELS__AUTO_LOAD", "[]", "models.auto_load", ()),
        ("LMX_MODELS__AUTO_LOAD", '["a", "b"]', "models.auto_load", ("a", "b")),
        ("LMX_MODELS__PATHS", '{"a": "/a"}', "models.paths", {"a": "/a"}),
        ("LMX_ROUTING__ALIASES", '{"code": ["a", "b"]}', "routing.aliases", {"code": ("a", "b")}),
        ("LMX_LOGGING__LEVEL", "debug", "logging.level", "DEBUG"),
        ("LMX_SECURITY__ADMIN_KEY", "123", "security.admin_key", "123"),
        ("LMX_MODELS__DEFAULT_MODEL", "null", "models.default_model", None),
    ],
)
def test_variables_are_read_as_people_write_them(load: Load, variable: str, text: str, dotted: str, value: Any) -> None:
    """Plain words for plain values, JSON for lists and maps."""
    loaded = load(environ={variable: text})
    section, name = dotted.split(".")
    assert getattr(getattr(loaded.config, section), name) == value
    assert loaded.origins[dotted] is Origin.ENVIRONMENT


def test_other_variables_are_none_of_our_business(load: Load) -> None:
    """`LMX_HOME`, and variables of other programs, are not keys."""
    environ = {"LMX_HOME": "/x", "LMX_CONFIG": "", "MY_LMX_SERVER__PORT": "1", "LMXX__A": "1"}
    assert load(environ=environ).config == Config()


@pytest.mark.parametrize("key", ["admin_key", "inference_api_key"])
@pytest.mark.parametrize("text", ["security: {%s: [hush]}", "security: {%s: 'hush hush'}", "security: {%s: hush: hush}"])
def test_no_message_shows_a_secret(load: Load, tmp_path: Path, key: str, text: str) -> None:
    """A key that is written wrongly is refused without being repeated."""
    (tmp_path / "config.yaml").write_text(text % key)
    with pytest.raises(ConfigError) as refused:
        load()
    assert "hush" not in str(refused.value)
