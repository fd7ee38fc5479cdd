"""What an operator is told of a configuration that cannot be used, word by word: where, which key, why, and what to do.

In what is said, FILE is the path of the file.
"""

from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.load import load_config

A_FILE = "it must be a file that the user of the service may read"
A_NAME = "expected a text that is not empty"
KEY = "expected a text of printable ASCII characters without spaces or null"
ONE_PROCESS = "one process serves all clients, and every model has a process of its own"
OR_OTHERS = "or security.inference_keys, or security.supabase_jwt_enabled"
TOO_LONG = "300 must not exceed models.queue_total (200); lower it, or raise models.queue_total"
LOOK = "remove it, or look for the right one in docs/configuration.md"
PORT = "expected a whole number, at least 0 and at most 65535"
ABSOLUTE = "must be an absolute path or start with ~/"

IN_A_YAML_FILE = [
    # An unknown key, with the nearest one there is.
    ("server: {prot: 1}", "server.prot: unknown key; did you mean 'server.port'?"),
    ("server: {auto_load: []}", "server.auto_load: unknown key; did you mean 'models.auto_load'?"),
    ("server: {zzzzzzzz: 1}", f"server.zzzzzzzz: unknown key; {LOOK}"),
    ("server: {1: 1}", f"server.1: unknown key; {LOOK}"),
    (
        "security: {rate_limit: {enable: true}}",
        "security.rate_limit.enable: unknown key; did you mean 'security.rate_limit.enabled'?",
    ),
    (
        "security: {inference_keys: {a: {key: k, modles: []}}}",
        "security.inference_keys.a.modles: unknown key; did you mean 'models'?",
    ),
    # An unknown section.
    ("sever: {}", "sever: unknown section; did you mean 'server'?"),
    ("port: 1", "port: unknown section; did you mean 'server.port'?"),
    ("zzzzz: {}", f"zzzzz: unknown section; {LOOK}"),
    ("rag: {}", "rag: unknown section; LMX has no document store yet; remove the section until it has"),
    # A wrong type.
    ("server: {port: many}", f"server.port: {PORT}, got 'many'"),
    ("server: {port: true}", f"server.port: {PORT}, got true"),
    ("server: {port: [1, 2]}", f"server.port: {PORT}, got [1,2]"),
    ("server: {body_seconds: soon}", "server.body_seconds: expected a number, over 0 and at most 86400, got 'soon'"),
    ("server: {host: ''}", "server.host: must not be empty; leave it out to have the default"),
    ("models: {slots: null}", "models.slots: expected a whole number, at least 1 and at most 64, got null"),
    ("models: {warm_spare: 2}", "models.warm_spare: expected true or false, got 2"),
    ("models: {default_model: 5}", "models.default_model: expected a text or null, got 5"),
    ("models: {auto_load: a}", "models.auto_load: expected a list, each entry a text, got 'a'"),
    ("models: {auto_load: [1]}", "models.auto_load: expected a list, each entry a text, got [1]"),
    ("models: {paths: {a: 1}}", 'models.paths: expected a map, each value a text, got {"a":1}'),
    ("routing: {aliases: {x: m}}", 'routing.aliases: expected a map, each value a list, each entry a text, got {"x":"m"}'),
    ("logging: {level: LOUD}", "logging.level: expected one of DEBUG, ERROR, INFO, WARNING, got 'LOUD'"),
    ("security: {admin_key: [hush]}", f"security.admin_key: {KEY}"),
    ("server: 5", "server: must be a map of keys, not a number"),
    ("server: yes", "server: must be a map of keys, not true or false"),
    ("server: &a [*a]", "server: must be a map of keys, not a list"),
    ("[server]", "must hold sections such as `server:`, not a list"),
    ("just words", "must hold sections such as `server:`, not a text"),
    # A value out of range.
    ("server: {port: 70000}", f"server.port: {PORT}, got 70000"),
    ("server: {body_seconds: 0}", "server.body_seconds: expected a number, over 0 and at most 86400, got 0"),
    ("server: {body_seconds: .nan}", "server.body_seconds: expected a number, over 0 and at most 86400, got nan"),
    ("models: {paths: {a: b.gguf}}", f"models.paths.a: 'b.gguf' {ABSOLUTE}"),
    ("logging: {file: lmx.log}", f"logging.file: 'lmx.log' {ABSOLUTE}"),
    (
        "journaling: {timezone: Mars/Base}",
        "journaling.timezone: 'Mars/Base' is no time zone that this machine knows; UTC always is one",
    ),
    (
        "routing: {aliases: {auto: [m]}}",
        "routing.aliases.auto: an alias cannot be called that: `auto` stands for any model that is served",
    ),
    (
        "routing: {aliases: {'preset:x': [m]}}",
        "routing.aliases.preset:x: an alias cannot be called that: `preset:` begins the name of a preset",
    ),
    ("routing: {aliases: {'': [m]}}", f"routing.aliases.: cannot be called that: {A_NAME}, of at most 128 characters"),
    ("routing: {aliases: {7: [m]}}", f"routing.aliases.7: cannot be called that: {A_NAME}, of at most 128 characters"),
    ("models: {paths: {'': /a}}", f"models.paths.: cannot be called that: {A_NAME}, of at most 4096 characters"),
    # Keys that contradict each other.
    ("security: {profile: cloud}", "security.admin_key: must be set, because security.profile is cloud"),
    (
        "security: {profile: cloud, admin_key: k}",
        f"security.inference_api_key: must be set ({OR_OTHERS}), because security.profile is cloud",
    ),
    (
        "models: {gguf_gpu_layers: 1, gpu_layers: 1}",
        "models.gguf_gpu_layers: models.gpu_layers is there too and means the same; remove this one",
    ),
    # What cannot be had.
    (
        "server: {workers: 4}",
        f"server.workers: only 1 is possible: {ONE_PROCESS}; remove the key",
    ),
    # No YAML, with the line.
    ("server:\n  port: 1\n\tslots: 2", "is not valid YAML: found character '\\t' that cannot start any token in line 3"),
    ("server: {port: 1\nmodels: {slots: 2}", "is not valid YAML: expected ',' or '}', but got ':' in line 2"),
    ("server:\n  port: 1\n  port: 2", "is not valid YAML: 'port' stands there twice in line 3"),
    ("server:\n  port: *nope", "is not valid YAML: found undefined alias 'nope' in line 2"),
    ("server: {}\nmodels: [", "is not valid YAML: expected the node content, but found '<stream end>' in line 2"),
    ("server: {}\nmodels: 'open", "is not valid YAML: found unexpected end of stream in line 2"),
    ("server: {}\nmo\0dels: {}", "is not valid YAML: a character that YAML does not allow in line 2"),
    ("[" * 1000, "is not valid YAML: it is nested too deeply"),
]  # fmt: skip
CLASHES = [
    # What the file says, what clashes, and the other key of the two.
    ("models: {queue_per_model: 300}", "models.queue_per_model: 300 must not exceed", "models.queue_total (256)"),
    (
        "server: {body_bytes_max: 268435456, held_bodies_bytes_max: 1024}",
        "server.body_bytes_max: 268435456 must not exceed", "server.held_bodies_bytes_max (1024)",
    ),
    (
        "downloads: {retry_initial_seconds: 90}",
        "downloads.retry_initial_seconds: 90 must not exceed", "downloads.retry_max_seconds (60)",
    ),
    (
        "supervision: {restart_max_seconds: 0.5}",
        "supervision.restart_initial_seconds: 1 must not exceed", "supervision.restart_max_seconds (0.5)",
    ),
    (
        "supervision: {load_total_seconds: 60}",
        "supervision.load_stall_seconds: 120 must not exceed", "supervision.load_total_seconds (60)",
    ),
    (
        "supervision: {beat_suspect_seconds: 30}",
        "supervision.beat_suspect_seconds: 30 must be less than", "supervision.beat_dead_seconds (30)",
    ),
    (
        "supervision: {beat_suspect_seconds: 0.5}",
        "supervision.beat_interval_seconds: 1 must be less than", "supervision.beat_suspect_seconds (0.5)",
    ),
    (
        "supervision: {c_watchdog_seconds: 1}",
        "supervision.beat_interval_seconds: 1 must be less than", "supervision.c_watchdog_seconds (1)",
    ),
]  # fmt: skip
IN_A_TOML_FILE = [
    ("[server]\nprot = 1", "server.prot: unknown key; did you mean 'server.port'?"),
    ("[sever]", "sever: unknown section; did you mean 'server'?"),
    ("port = 1", "port: unknown section; did you mean 'server.port'?"),
    ("server = 5", "server: must be a map of keys, not a number"),
    ('[server]\nport = "many"', f"server.port: {PORT}, got 'many'"),
    ("[server]\nport = 70000", f"server.port: {PORT}, got 70000"),
    ("[server]\nport = true", f"server.port: {PORT}, got true"),
    ("[server]\nport = 1979-05-27", f'server.port: {PORT}, got "1979-05-27"'),
    (
        "[models]\nqueue_per_model = 300",
        "models.queue_per_model: 300 must not exceed models.queue_total (256); lower it, or raise models.queue_total",
    ),
    ("[server", "is not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
    ("[server]\nport 1", "is not valid TOML: Expected '=' after a key in a key/value pair (at line 2, column 6)"),
    ("[server]\nport = \nhost = 'x'", "is not valid TOML: Invalid value (at line 2, column 8)"),
    ("[server]\nport = 1\n[server]\n", "is not valid TOML: Cannot declare ('server',) twice (at line 3, column 8)"),
    ("a = " + "[" * 3000, "is not valid TOML: it is nested too deeply"),
    ("[server]\nport = " + "9" * 5000, "is not valid TOML: a value in it cannot be read"),
]
IN_THE_ENVIRONMENT = [
    ("LMX_SERVER__PROT", "1", "unknown key; did you mean 'LMX_SERVER__PORT'?"),
    ("LMX_SERVR__PORT", "1", "unknown key; did you mean 'LMX_SERVER__PORT'?"),
    ("LMX_MODELS__PATHS__A", "/a", "unknown key; did you mean 'LMX_MODELS__PATHS'?"),
    ("LMX_ZZZZ__ZZZZZZZZ", "1", f"unknown key; {LOOK}"),
    ("LMX_RAG__ENABLED", "true", "unknown section; LMX has no document store yet; remove the section until it has"),
    ("LMX_SERVER__PORT", "http", f"{PORT}, got 'http'"),
    ("LMX_SERVER__PORT", "", f"{PORT}, got ''"),
    ("LMX_SERVER__PORT", "70000", f"{PORT}, got 70000"),
    ("LMX_MODELS__SLOTS", "4.5", "expected a whole number, at least 1 and at most 64, got '4.5'"),
    ("LMX_SERVER__HOST", "", "must not be empty; leave it out to have the default"),
    ("LMX_MODELS__WARM_SPARE", "perhaps", "expected true or false, got 'perhaps'"),
    ("LMX_LOGGING__LEVEL", "loud", "expected one of DEBUG, ERROR, INFO, WARNING, got 'loud'"),
    ("LMX_MODELS__AUTO_LOAD", "a,b", 'must be JSON such as ["a", "b"] or []'),
    ("LMX_MODELS__AUTO_LOAD", "", 'must be JSON such as ["a", "b"] or []'),
    ("LMX_MODELS__AUTO_LOAD", "[" * 100_000, 'must be JSON such as ["a", "b"] or []'),
    ("LMX_MODELS__AUTO_LOAD", "{}", "expected a list, each entry a text, got {}"),
    ("LMX_MODELS__PATHS", "a=/a", 'must be JSON such as {"a": "b"}'),
    ("LMX_MODELS__PATHS", '{"a": "b"}', f"'b' {ABSOLUTE}"),
    ("LMX_ROUTING__ALIASES", "code=a", 'must be JSON such as {"a": ["b", "c"]}'),
    ("LMX_SECURITY__RATE_LIMIT", "on", 'must be JSON such as {"enabled":false}'),
    ("LMX_SECURITY__ADMIN_KEY", "", "must not be empty; leave it out to have the default"),
    ("LMX_SECURITY__ADMIN_KEY", "hush hush", KEY),
    (
        "LMX_MODELS__QUEUE_PER_MODEL",
        "300",
        "300 must not exceed models.queue_total (256); lower it, or raise models.queue_total",
    ),
    (
        "LMX_MODELS__WARMUP_ON_LOAD",
        "off",
        "only true is possible: a model is served only after it answered a first prompt; remove the key",
    ),
]
ON_THE_COMMAND_LINE = [
    ("server.port", 70000, f"--port: {PORT}, got 70000"),
    ("server.host", "", "--host: must not be empty; leave it out to have the default"),
    ("logging.level", "LOUD", "--log-level: expected one of DEBUG, ERROR, INFO, WARNING, got 'LOUD'"),
    ("server.prot", 1, "server.prot: unknown key; did you mean 'server.port'?"),
]
NO_SUCH_FILE = "no such file; put it there, or name another one with --config or LMX_CONFIG"
FILES = [
    ("missing.yaml", None, NO_SUCH_FILE),
    ("directory.yaml", "directory", f"cannot be read: Is a directory; {A_FILE}"),
    ("loop.yaml", "loop", f"cannot be read: Too many levels of symbolic links; {A_FILE}"),
    ("config.ini", b"", "must end in .yaml, .yml or .toml, which say how it is read; rename it"),
    ("config.yaml", b"server: {}\n\xff", "is not UTF-8 text (byte 11); save it as UTF-8"),
    ("config.yaml", b"#" * (1024**2 + 1), "is larger than 1048576 bytes, as no configuration is; is it the right file?"),
]


def said_of(home: Path, *, file: Path | None = None, flags: dict[str, Any] | None = None, **environ: str) -> str:
    """The one line that a start with this ends with."""
    with pytest.raises(ConfigError) as refused:
        load_config(file=file, flags=flags or {}, environ=environ, home=home)
    said = str(refused.value)
    assert "hush" not in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(("text", "said"), IN_A_YAML_FILE)
def test_of_a_yaml_file(tmp_path: Path, text: str, said: str) -> None:
    """The file, the key, the reason."""
    file = tmp_path / "config.yaml"
    file.write_text(text)

    assert said_of(tmp_path) == f"{file}: {said}"


@pytest.mark.parametrize(("text", "clash", "other"), CLASHES)
def test_of_keys_that_clash(tmp_path: Path, text: str, clash: str, other: str) -> None:
    """Both keys with their values, and what can be done about it."""
    file = tmp_path / "config.yaml"
    file.write_text(text)

    assert said_of(tmp_path) == f"{file}: {clash} {other}; lower it, or raise {other.partition(' ')[0]}"


@pytest.mark.parametrize(("text", "said"), IN_A_TOML_FILE)
def test_of_a_toml_file(tmp_path: Path, text: str, said: str) -> None:
    """The same words as of a YAML file, but where the syntax is to blame."""
    file = tmp_path / "config.toml"
    file.write_text(text)

    assert said_of(tmp_path) == f"{file}: {said}"


@pytest.mark.parametrize(("variable", "value", "said"), IN_THE_ENVIRONMENT)
def test_of_a_variable(tmp_path: Path, variable: str, value: str, said: str) -> None:
    """The variable as the operator wrote it."""
    assert said_of(tmp_path, **{variable: value}) == f"environment: {variable}: {said}"


def test_of_a_variable_that_lacks_another(tmp_path: Path) -> None:
    """What has to be set is told as a variable too."""
    expected = "environment: LMX_SECURITY__ADMIN_KEY: must be set, because security.profile is cloud"

    assert said_of(tmp_path, LMX_SECURITY__PROFILE="cloud") == expected


@pytest.mark.parametrize(("key", "value", "said"), ON_THE_COMMAND_LINE)
def test_of_a_flag(tmp_path: Path, key: str, value: Any, said: str) -> None:
    """The flag as it is typed."""
    assert said_of(tmp_path, flags={key: value}) == f"command line: {said}"


@pytest.mark.parametrize("by_flag", [True, False], ids=["--config", "LMX_CONFIG"])
@pytest.mark.parametrize(("name", "content", "said"), FILES, ids=[said.partition(":")[0][:30] for _, _, said in FILES])
def test_of_a_named_file_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes | str | None, said: str, by_flag: bool
) -> None:
    """A file that was named, by flag or variable, is never passed over."""
    file = tmp_path / "elsewhere" / name
    file.parent.mkdir()
    if content == "directory":
        file.mkdir()
    elif content == "loop":
        file.symlink_to(file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    (tmp_path / "config.yaml").write_text("")
    told = said_of(tmp_path, file=file) if by_flag else said_of(tmp_path, LMX_CONFIG=str(file))

    assert told == f"{file}: {said}"


def test_of_a_file_in_the_home_that_cannot_be_read(tmp_path: Path) -> None:
    """One that is there but no file stops the start instead of being taken for missing."""
    (tmp_path / "config.yaml").mkdir()

    assert said_of(tmp_path) == f"{tmp_path}/config.yaml: cannot be read: Is a directory; {A_FILE}"


@pytest.mark.parametrize(
    ("text", "environ", "flags", "said"),
    [
        ("server: {port: x}", {"LMX_SERVER__PORT": "1"}, {}, f"FILE: server.port: {PORT}, got 'x'"),
        ("", {"LMX_SERVER__PORT": "x"}, {"server.port": 1}, f"environment: LMX_SERVER__PORT: {PORT}, got 'x'"),
        (
            "models: {queue_per_model: 300}",
            {"LMX_MODELS__QUEUE_TOTAL": "200"},
            {},
            f"FILE: models.queue_per_model: {TOO_LONG}",
        ),
        (
            "models: {queue_total: 200}",
            {"LMX_MODELS__QUEUE_PER_MODEL": "300"},
            {},
            f"environment: LMX_MODELS__QUEUE_PER_MODEL: {TOO_LONG}",
        ),
    ],
)
def test_of_values_in_several_places(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, Any], said: str
) -> None:
    """An overridden value is checked too, and where two clash the place of the one to change is told."""
    file = tmp_path / "config.yaml"
    file.write_text(text)

    assert said_of(tmp_path, flags=flags, **environ) == said.replace("FILE", str(file))
