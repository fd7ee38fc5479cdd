"""Precedence, origins and every way a configuration can be refused."""

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


def test_flag_beats_environment_beats_file_beats_default(load: Load, tmp_path: Path) -> None:
    """Each layer wins over the ones below it, and the origin of each value is told."""
    (tmp_path / "config.yaml").write_text("server: {port: 1, host: file, body_seconds: 5}\n")
    environ = {"LMX_SERVER__PORT": "2", "LMX_SERVER__HOST": "environment"}
    loaded = load(environ=environ, flags={"server.port": 3, "logging.level": None})
    server = loaded.config.server
    assert (server.port, server.host, server.body_seconds) == (3, "environment", 5.0)
    origins = [loaded.origins[f"server.{name}"] for name in ("port", "host", "body_seconds", "connections_max")]
    assert origins == [Origin.FLAG, Origin.ENVIRONMENT, Origin.FILE, Origin.DEFAULT]
    assert loaded.origins["logging.level"] is Origin.DEFAULT


def test_yaml_and_toml_have_the_same_schema(load: Load, tmp_path: Path) -> None:
    """The same settings read the same from either format; in the home YAML is taken first."""
    (tmp_path / "config.toml").write_text('[models]\nauto_load = ["a"]\npaths = {a = "/a.gguf"}\n[server]\nbody_seconds = 7\n')
    from_toml = load()
    (tmp_path / "config.yaml").write_text("models:\n  auto_load: [a]\n  paths: {a: /a.gguf}\nserver:\n  body_seconds: 7\n")
    from_yaml = load()
    assert from_toml.config == from_yaml.config != Config()
    assert (from_toml.file, from_yaml.file) == (tmp_path / "config.toml", tmp_path / "config.yaml")


def test_a_named_file_is_taken_instead_of_the_default_one(load: Load, tmp_path: Path) -> None:
    """The command line's file wins over `LMX_CONFIG`, and that over the home."""
    for name, port in (("config.yaml", 1), ("variable.yml", 2), ("flag.toml", 3)):
        text = f"[server]\nport = {port}\n" if name.endswith("toml") else f"server: {{port: {port}}}\n"
        (tmp_path / name).write_text(text)
    environ = {"LMX_CONFIG": str(tmp_path / "variable.yml")}
    assert load(environ=environ).config.server.port == 2
    assert load(environ=environ, file=tmp_path / "flag.toml").config.server.port == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\nmodels:\n", "\ufeffserver: {}\n"])
def test_empty_files_and_sections_are_fine(load: Load, tmp_path: Path, text: str) -> None:
    """A file in which everything is commented out changes nothing."""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load().config == Config()


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("sever: {}", "sever", "unknown section; did you mean 'server'?"),
        ("port: 1", "port", "unknown section; did you mean 'server.port'?"),
        ("server: {prot: 1}", "server.prot", "unknown key; did you mean 'server.port'?"),
        ("server: {auto_load: []}", "server.auto_load", "did you mean 'models.auto_load'?"),
        ("server: {zzzzzzzz: 1}", "server.zzzzzzzz", "unknown key"),
        ("server: {1: 1}", "server.1", "unknown key"),
        ("server: 5", "server", "must be a map"),
        ("[server]", None, "must hold sections"),
        ("server: {port: many}", "server.port", "expected a whole number, at least 0 and at most 65535, got 'many'"),
        ("server: {port: 70000}", "server.port", "got 70000"),
        ("server: {port: true}", "server.port", "got True"),
        ("server: {body_seconds: .nan}", "server.body_seconds", "got nan"),
        ("server: {body_seconds: 0}", "server.body_seconds", "over 0"),
        ("server: {host: ''}", "server.host", "expected a text"),
        ("models: {auto_load: [1]}", "models.auto_load", "a list, each entry a text"),
        ("models: {paths: {a: 1}}", "models.paths", "a map, each value a text"),
        ("models: {paths: {a: b.gguf}}", "models.paths.a", "absolute path"),
        ("logging: {level: LOUD}", "logging.level", "one of"),
        ("logging: {file: lmx.log}", "logging.file", "absolute path"),
        ("supervision: {restart_max_seconds: 0.5}", "supervision.restart_initial_seconds", "must not exceed"),
        ("supervision: {beat_suspect_seconds: 30}", "supervision.beat_suspect_seconds", "must be less than"),
        ("supervision: {c_watchdog_seconds: 1}", "supervision.beat_interval_seconds", "must be less than"),
        ("models: {queue_per_model: 300}", "models.queue_per_model", "must not exceed models.queue_total (256)"),
        ("security: {profile: cloud, admin_key: k}", "security.inference_api_key", "profile is cloud"),
        ("server: {port: 1, port: 2}", None, "'port' stands there twice in line 1"),
        ("server: [", None, "is not valid YAML"),
        ("server: &a [*a]", "server", "must be a map"),
        ("routing: {aliases: {code: m}}", "routing.aliases", "a map, each value a list, each entry a text"),
        ("routing: {aliases: {auto: [m]}}", "routing.aliases.auto", "an alias cannot be called that: `auto` stands for any"),
        ("routing: {aliases: {'preset:x': [m]}}", "routing.aliases.preset:x", "`preset:` begins the name of a preset"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name_key_and_reason(
    load: Load, tmp_path: Path, text: str, key: str | None, words: str
) -> None:
    """Everything wrong in a file is told with the file, the key and what is expected there."""
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load()
    assert refused.value.key == key
    assert words in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "config.yaml"))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing.yaml", None, "no such file"),
        ("config.ini", b"", "must end in .yaml, .yml or .toml"),
        ("config.yaml", b"\xff\xfe", "is not UTF-8 text"),
        ("config.toml", b"[server", "is not valid TOML"),
        ("config.yaml", b"#" * (1024**2 + 1), "is larger than"),
        ("config.yaml", b"[" * 5000, "is not valid YAML"),
    ],
)
def test_an_unusable_named_file_is_refused(load: Load, tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    """A file the operator named is never skipped silently."""
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        load(file=tmp_path / name)


def test_a_directory_is_no_file(load: Load, tmp_path: Path) -> None:
    """A default file that is there but cannot be read stops the start instead of being taken for missing."""
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load()


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


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("LMX_SERVER__PROT", "1", "unknown key; did you mean 'LMX_SERVER__PORT'?"),
        ("LMX_MODELS__PATHS__A", "/a", "unknown key"),
        ("LMX_SERVER__PORT", "http", "expected a whole number"),
        ("LMX_SERVER__PORT", "", "expected a whole number"),
        ("LMX_MODELS__WARM_SPARE", "perhaps", "expected true or false, got 'perhaps'"),
        ("LMX_MODELS__AUTO_LOAD", "a,b", 'must be JSON such as ["a", "b"]'),
        ("LMX_ROUTING__ALIASES", "code=a", 'must be JSON such as {"a": ["b", "c"]}'),
        ("LMX_MODELS__AUTO_LOAD", "[" * 100_000, "must be JSON"),
        ("LMX_MODELS__AUTO_LOAD", "{}", "a list, each entry a text"),
        ("LMX_SECURITY__ADMIN_KEY", "", "printable ASCII"),
    ],
)
def test_a_bad_variable_is_refused_by_its_own_name(load: Load, variable: str, text: str, words: str) -> None:
    """The message names the variable as the operator wrote it."""
    with pytest.raises(ConfigError) as refused:
        load(environ={variable: text})
    assert str(refused.value).startswith(f"environment: {variable}: ")
    assert words in str(refused.value)


def test_other_variables_are_none_of_our_business(load: Load) -> None:
    """`LMX_HOME`, and variables of other programs, are not keys."""
    environ = {"LMX_HOME": "/x", "LMX_CONFIG": "", "MY_LMX_SERVER__PORT": "1", "LMXX__A": "1"}
    assert load(environ=environ).config == Config()


def test_an_overridden_value_is_checked_too(load: Load) -> None:
    """A broken value does not wait for the day its override goes."""
    with pytest.raises(ConfigError, match="LMX_SERVER__PORT"):
        load(environ={"LMX_SERVER__PORT": "x"}, flags={"server.port": 1})


@pytest.mark.parametrize(("key", "words"), [("server.prot", "did you mean 'server.port'"), ("nonsense", "unknown key")])
def test_an_unknown_flag_is_refused(load: Load, key: str, words: str) -> None:
    """Flags are held to the same keys."""
    with pytest.raises(ConfigError, match=f"command line: {key}: .*{words}"):
        load(flags={key: 1})


@pytest.mark.parametrize("key", ["admin_key", "inference_api_key"])
@pytest.mark.parametrize("text", ["security: {%s: [hush]}", "security: {%s: 'hush hush'}", "security: {%s: hush: hush}"])
def test_no_message_shows_a_secret(load: Load, tmp_path: Path, key: str, text: str) -> None:
    """A key that is written wrongly is refused without being repeated."""
    (tmp_path / "config.yaml").write_text(text % key)
    with pytest.raises(ConfigError) as refused:
        load()
    assert "hush" not in str(refused.value)
