"""Which value is in force: flag over environment over file over default, which file is read, and what a safe mode is."""

from pathlib import Path

import pytest

from lmx_supervisor.config.load import LoadedConfig, Origin, load_config
from lmx_supervisor.host import nothing_wanted

DEFAULT, FILE, ENVIRONMENT, FLAG = Origin.DEFAULT, Origin.FILE, Origin.ENVIRONMENT, Origin.FLAG
PORTS = {"config.yaml": 1, "config.toml": 2, "variable.yml": 3, "variable.toml": 4, "flag.yaml": 5, "flag.toml": 6}
"""What each file says; the variable says 7 and the flag 8."""
HOME = ("config.yaml", "config.toml")


def load(
    home: Path, *, lmx_config: str | None = None, config: str | None = None, variable: bool = False, flag: bool = False
) -> LoadedConfig:
    """The configuration of a start with these."""
    environ = {"LMX_CONFIG": str(home / lmx_config)} if lmx_config else {}
    environ |= {"LMX_SERVER__PORT": "7"} if variable else {}
    return load_config(
        file=home / config if config else None, flags={"server.port": 8 if flag else None}, environ=environ, home=home
    )


@pytest.mark.parametrize(
    ("in_the_home", "lmx_config", "config", "variable", "flag", "port", "origin", "file"),
    [
        # in the home      LMX_CONFIG       --config     LMX_SERVER__PORT, --port   port, whose, file that is read
        ((),               None,            None,        False, False,              1234, DEFAULT, None),
        (("config.toml",), None,            None,        False, False,              2, FILE, "config.toml"),
        (("config.yaml",), None,            None,        False, False,              1, FILE, "config.yaml"),
        (HOME,             None,            None,        False, False,              1, FILE, "config.yaml"),
        (HOME,             "variable.yml",  None,        False, False,              3, FILE, "variable.yml"),
        (HOME,             "variable.toml", None,        False, False,              4, FILE, "variable.toml"),
        (HOME,             None,            "flag.yaml", False, False,              5, FILE, "flag.yaml"),
        (HOME,             "variable.yml",  "flag.toml", False, False,              6, FILE, "flag.toml"),
        ((),               None,            None,        True,  False,              7, ENVIRONMENT, None),
        (("config.toml",), None,            None,        True,  False,              7, ENVIRONMENT, "config.toml"),
        (HOME,             None,            None,        True,  False,              7, ENVIRONMENT, "config.yaml"),
        (HOME,             "variable.toml", None,        True,  False,              7, ENVIRONMENT, "variable.toml"),
        (HOME,             "variable.yml",  "flag.toml", True,  False,              7, ENVIRONMENT, "flag.toml"),
        ((),               None,            None,        False, True,               8, FLAG, None),
        (("config.toml",), None,            None,        False, True,               8, FLAG, "config.toml"),
        ((),               None,            None,        True,  True,               8, FLAG, None),
        (HOME,             "variable.yml",  "flag.yaml", True,  True,               8, FLAG, "flag.yaml"),
    ],
)  # fmt: skip
def test_the_first_that_has_a_value_decides(
    tmp_path: Path,
    in_the_home: tuple[str, ...],
    lmx_config: str | None,
    config: str | None,
    variable: bool,
    flag: bool,
    port: int,
    origin: Origin,
    file: str | None,
) -> None:
    """Flag, environment, one file, default; of the files the one that is named, on the command line before `LMX_CONFIG`."""
    for name in {*in_the_home, *(name for name in (lmx_config, config) if name)}:
        text = f"[server]\nport = {PORTS[name]}\n" if name.endswith("toml") else f"server: {{port: {PORTS[name]}}}\n"
        (tmp_path / name).write_text(text)
    loaded = load(tmp_path, lmx_config=lmx_config, config=config, variable=variable, flag=flag)

    assert (loaded.config.server.port, loaded.origins["server.port"]) == (port, origin)
    assert loaded.file == (tmp_path / file if file else None)


def test_each_key_is_decided_by_itself(tmp_path: Path) -> None:
    """What one place leaves out, the next one says; a map or list is one value, and is not merged."""
    (tmp_path / "config.yaml").write_text(
        "server: {port: 1, host: file, body_seconds: 5}\nmodels: {paths: {a: /a, b: /b}}\nrouting: {aliases: {x: [m]}}\n"
    )
    environ = {"LMX_SERVER__PORT": "2", "LMX_SERVER__HOST": "environment", "LMX_MODELS__PATHS": '{"c": "/c"}'}
    loaded = load_config(file=None, flags={"server.port": 3, "logging.level": None}, environ=environ, home=tmp_path)
    server = loaded.config.server

    assert (server.port, server.host, server.body_seconds) == (3, "environment", 5.0)
    assert (loaded.config.models.paths, loaded.config.routing.aliases) == ({"c": "/c"}, {"x": ("m",)})
    origins = [loaded.origins[f"server.{name}"] for name in ("port", "host", "body_seconds", "connections_max")]
    assert origins == [FLAG, ENVIRONMENT, FILE, DEFAULT]
    assert loaded.origins["logging.level"] is DEFAULT


@pytest.mark.parametrize(
    ("variable", "wanted", "safe"),
    [
        # LMX_MODELS__AUTO_LOAD, in force while the file says [a, b], whether this start is a safe one
        (None,          ("a", "b"), False),
        ("[]",          (),         True),
        (" [ ] ",       (),         True),
        ('["c"]',       ("c",),     False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", ["models: {auto_load: [a, b]}", '[models]\nauto_load = ["a", "b"]\n'], ids=["YAML", "TOML"])
def test_safe_mode_comes_from_the_environment(
    tmp_path: Path, text: str, variable: str | None, wanted: tuple[str, ...], safe: bool
) -> None:
    """An empty list there is meant for this very start, whatever the file of either format says."""
    (tmp_path / ("config.toml" if text.startswith("[") else "config.yaml")).write_text(text)
    environ = {"LMX_MODELS__AUTO_LOAD": variable} if variable is not None else {}
    loaded = load_config(file=None, flags={}, environ=environ, home=tmp_path)

    assert (loaded.config.models.auto_load, nothing_wanted(loaded)) == (wanted, safe)


@pytest.mark.parametrize("text", ["", "models: {auto_load: []}"])
def test_a_list_that_was_never_filled_is_no_safe_mode(tmp_path: Path, text: str) -> None:
    """An empty list in the file, or none: nothing is loaded at start, but what a crash took is brought back."""
    (tmp_path / "config.yaml").write_text(text)

    assert not nothing_wanted(load_config(file=None, flags={}, environ={}, home=tmp_path))
