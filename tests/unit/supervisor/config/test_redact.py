"""Secrets are shown nowhere, and everything else is shown."""

from pathlib import Path

import msgspec

from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.config.load import Origin, load_config
from lmx_supervisor.config.redact import REDACTED, secret_values, shown_values


def test_shown_values_hide_set_secrets_only(tmp_path: Path) -> None:
    """A set key reads as redacted, an unset one as null, and all other values as they are, with their origin."""
    flags = {"security.admin_key": "hush", "server.port": 5}
    loaded = load_config(file=None, flags=flags, environ={}, home=tmp_path)
    shown = {value.key: value for value in shown_values(loaded)}
    assert set(shown) == set(all_keys())
    assert shown["security.admin_key"].value == REDACTED
    assert shown["security.inference_api_key"].value is None
    assert (shown["server.port"].value, shown["server.port"].origin) == (5, Origin.FLAG)
    assert b"hush" not in msgspec.json.encode(list(shown.values()))


def test_secret_values_are_the_ones_that_are_set(tmp_path: Path) -> None:
    """Log filters get exactly the secrets in force."""
    loaded = load_config(file=None, flags={"security.inference_api_key": "k"}, environ={}, home=tmp_path)
    assert secret_values(loaded.config) == ("k",)
    secret = {"security.admin_key", "security.inference_api_key", "security.inference_keys"}
    assert {key.dotted for key in all_keys().values() if key.secret} == secret


def test_a_part_of_a_value_is_hidden_alone(tmp_path: Path) -> None:
    """A named key shows everything but itself, however it was written; what its file holds is a secret like the others."""
    digest = "0" * 64
    (tmp_path / "key").write_text("hush-file\n")
    keys = {
        "alice": {"key": "hush-alice", "models": ["org/*"]},
        "bob": {"key_sha256": digest},
        "carol": {"key_file": str(tmp_path / "key")},
    }
    loaded = load_config(file=None, flags={"security.inference_keys": keys}, environ={}, home=tmp_path)
    (shown,) = [value.value for value in shown_values(loaded) if value.key == "security.inference_keys"]

    assert set(secret_values(loaded.config)) == {"hush-alice", digest, "hush-file"}
    assert (shown["alice"]["key"], shown["alice"]["models"]) == (REDACTED, ("org/*",))
    assert (shown["bob"]["key_sha256"], shown["bob"]["key"]) == (REDACTED, None)
    assert (shown["carol"]["key"], shown["carol"]["key_file"]) == (REDACTED, str(tmp_path / "key"))
