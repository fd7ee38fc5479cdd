"""The security section: sections within it, keys by name, and every combination that would leave a door open."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.config.load import LoadedConfig, load_config, read_again
from lmx_supervisor.config.reloading import LIVE_KEYS, plan_reload
from lmx_supervisor.config.schema import NamedKey
from lmx_supervisor.config.security_rules import open_to_others

TOKENS = (
    "supabase_jwt_enabled: true, supabase_jwt_issuer: i, supabase_jwt_audience: a, "
    "supabase_jwt_jwks_url: https://example.org/jwks.json"
)

OR_OTHERS = "or security.inference_keys, or security.supabase_jwt_enabled"
ONE_OF = "must have one of key, key_sha256, key_file, and has"
KEY = "expected a text of printable ASCII characters without spaces or null"
NAME = "a name of letters, digits, dots, dashes and underscores, of at most 64 characters"
ENTRY = "a map with key, key_sha256, key_file, models, requests_per_minute, concurrent_max"
NO_ORIGIN = "is no origin; one looks like https://example.org or http://localhost:3000"
ADDRESS = "must be an https:// address (http:// on the loopback only), a file:// address, or an absolute path"


def load(home: Path, security: str, environ: dict[str, str] | None = None) -> LoadedConfig:
    """A configuration whose file has this security section."""
    (home / "config.yaml").write_text(f"security: {{{security}}}")
    return load_config(file=None, flags={}, environ=environ or {}, home=home)


@pytest.mark.parametrize(
    "security",
    [
        "profile: cloud, admin_key: a, inference_api_key: k",
        "profile: cloud, admin_key: a, inference_keys: {alice: {key: k}}",
        f"profile: cloud, admin_key: a, {TOKENS}",
        "supabase_jwt_enabled: true, supabase_jwt_issuer: i, supabase_jwt_audience: a, supabase_jwt_jwks_url: /etc/jwks.json",
        "rate_limit: {enabled: true, default_limit: '10 per second; 500/hour', embeddings_limit: 5/minute}",
        "trusted_proxies: [10.0.0.1, 10.0.0.0/8, 'fd00::/8'], honor_x_forwarded_for: true",
        "cors_allowed_origins: ['*', 'https://example.org', 'http://localhost:3000', 'tauri://localhost']",
        "mtls_mode: off, mtls_allowed_subjects: [], endpoint_policy_hooks: {enabled: false, mode: audit}",
    ],
)
def test_what_can_be_used(tmp_path: Path, security: str) -> None:
    """Locked in each of the ways there are, and the predecessor's keys that ask for nothing."""
    load(tmp_path, security)


@pytest.mark.parametrize(
    ("security", "key", "words"),
    [
        ("profile: cloud", "admin_key", "must be set, because security.profile is cloud"),
        ("profile: cloud, inference_api_key: k", "admin_key", "must be set, because security.profile is cloud"),
        (
            "profile: cloud, admin_key: a",
            "inference_api_key",
            f"must be set ({OR_OTHERS}), because security.profile is cloud",
        ),
        ("inference_keys: {alice: {}}", "inference_keys.alice", f"{ONE_OF} none"),
        ("inference_keys: {alice: {key: hush, key_file: /x}}", "inference_keys.alice", f"{ONE_OF} key and key_file"),
        ("inference_keys: {alice: {key: 'hush hush'}}", "inference_keys.alice.key", KEY),
        (
            "inference_keys: {alice: {key_sha256: hush}}",
            "inference_keys.alice.key_sha256",
            "expected 64 hexadecimal digits in small letters or null",
        ),
        (
            "inference_keys: {alice: {key_file: nowhere}}",
            "inference_keys.alice.key_file",
            "'nowhere' must be an absolute path or start with ~/",
        ),
        (
            "inference_keys: {alice: {key_file: /nowhere}}",
            "inference_keys.alice.key_file",
            "'/nowhere' cannot be read: No such file or directory",
        ),
        (
            "inference_keys: {alice: {key: hush, model: x}}",
            "inference_keys.alice.model",
            "unknown key; did you mean 'models'?",
        ),
        (
            "inference_keys: {alice: {key: hush, requests_per_minute: 0}}",
            "inference_keys.alice.requests_per_minute",
            "expected a whole number, at least 1 and at most 10000 or null, got 0",
        ),
        ("inference_keys: {alice: hush}", "inference_keys.alice", f"expected {ENTRY}"),
        ("inference_keys: {'a b': {key: hush}}", "inference_keys.a b", f"cannot be called that: expected {NAME}"),
        ("inference_keys: [hush]", "inference_keys", f"expected a map, each value {ENTRY}"),
        (
            "inference_keys: {a: {key: hush}, b: {key: hush}}",
            "inference_keys.b",
            "is the same key as a; give each its own",
        ),
        (
            "admin_key: hush, inference_keys: {a: {key: hush}}",
            "inference_keys.a",
            "is the same key as admin_key; give each its own",
        ),
        (
            "rate_limit: {default_limit: often}",
            "rate_limit.default_limit",
            "'often' is no rate limit; one looks like 60/minute or 10/second;500/hour",
        ),
        (
            "rate_limit: {embeddings_limit: 0/minute}",
            "rate_limit.embeddings_limit",
            "'0/minute' must allow 1 to 10000 requests",
        ),
        (
            "rate_limit: {chat_completions_limit: 5/year}",
            "rate_limit.chat_completions_limit",
            "'5/year' must be about a second to a day",
        ),
        (
            "rate_limit: {default_limit: 1/day;2/day;3/day;4/day;5/day}",
            "rate_limit.default_limit",
            "'1/day;2/day;3/day;4/day;5/day' has more than 4 limits",
        ),
        (
            "rate_limit: {enable: true}",
            "rate_limit.enable",
            "unknown key; did you mean 'security.rate_limit.enabled'?",
        ),
        ("rate_limit: 5/minute", "rate_limit", "must be a map of keys, not a text"),
        (
            "honor_x_forwarded_for: true",
            "trusted_proxies",
            "must name the proxies to believe, because security.honor_x_forwarded_for is true",
        ),
        (
            "trusted_proxies: [proxy.example]",
            "trusted_proxies",
            "'proxy.example' is neither an address nor a network such as 10.0.0.0/8",
        ),
        ("cors_allowed_origins: [example.org]", "cors_allowed_origins", f"'example.org' {NO_ORIGIN}"),
        (
            "cors_allowed_origins: ['https://example.org/']",
            "cors_allowed_origins",
            f"'https://example.org/' {NO_ORIGIN}",
        ),
        (
            "supabase_jwt_require: true",
            "supabase_jwt_enabled",
            "must be true, because security.supabase_jwt_require is",
        ),
        (
            "supabase_jwt_enabled: true",
            "supabase_jwt_issuer",
            "must be set, because security.supabase_jwt_enabled is true",
        ),
        (TOKENS.replace("https", "http"), "supabase_jwt_jwks_url", ADDRESS),
        (TOKENS.replace("https://example.org/", ""), "supabase_jwt_jwks_url", ADDRESS),
        (
            TOKENS.replace("audience: a", "audience: ''"),
            "supabase_jwt_audience",
            "must be set, because security.supabase_jwt_enabled is true",
        ),
        (
            "mtls_mode: required",
            "mtls_mode",
            'only "off" is possible: LMX asks for no client certificates; a reverse proxy can; remove the key',
        ),
        (
            "endpoint_policy_hooks: {enabled: true}",
            "endpoint_policy_hooks.enabled",
            "only false is possible: LMX asks no policy hooks; remove the key",
        ),
    ],
)
def test_what_would_not_lock_is_refused(tmp_path: Path, security: str, key: str, words: str) -> None:
    """With the entry's own name and the reason, and never with a key in it."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, security)

    assert str(refused.value) == f"{tmp_path}/config.yaml: security.{key}: {words}"
    assert refused.value.key == f"security.{key}"
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LMX_SECURITY__RATE_LIMIT__ENABLED": "true"}, (True, "9/minute")),
        ({"LMX_SECURITY__RATE_LIMIT": '{"enabled": true, "default_limit": "3/minute"}'}, (True, "3/minute")),
        ({}, (False, "9/minute")),
    ],
)
def test_a_section_within_a_section_is_merged_key_by_key(
    tmp_path: Path, variables: dict[str, str], expected: tuple[bool, str]
) -> None:
    """A variable for one of its keys leaves the file's others in force; as JSON it says several."""
    limit = load(tmp_path, "rate_limit: {default_limit: 9/minute}", variables).config.security.rate_limit

    assert (limit.enabled, limit.default_limit) == expected


def test_named_keys_in_toml_and_in_a_variable(tmp_path: Path) -> None:
    """The same keys, however they are written."""
    (tmp_path / "config.toml").write_text('[security.inference_keys.alice]\nkey = "k"\nmodels = ["a/*"]\n')
    expected = {"alice": NamedKey(key="k", models=("a/*",))}
    variable = {"LMX_SECURITY__INFERENCE_KEYS": '{"alice": {"key": "k", "models": ["a/*"]}}'}

    assert load_config(file=None, flags={}, environ={}, home=tmp_path).config.security.inference_keys == expected
    assert load_config(file=None, flags={}, environ=variable, home=tmp_path / "no").config.security.inference_keys == expected


def test_a_key_in_a_file_is_read_with_every_reload(tmp_path: Path) -> None:
    """Rotating it needs no change of the configuration; a file that is no key any more changes nothing."""
    file = tmp_path / "alice.key"
    file.write_text("first\n")
    running = load(tmp_path, f"inference_keys: {{alice: {{key_file: {file}}}}}")
    file.write_text("second\n")
    reload = plan_reload(running, read_again(running))

    assert running.config.security.inference_keys["alice"].key == "first"
    assert reload.updated == ("security.inference_keys",)
    assert reload.loaded.config.security.inference_keys["alice"].key == "second"
    file.write_text("not a key\n")
    with pytest.raises(ConfigError, match="must hold one key") as refused:
        read_again(running)
    assert "not a key" not in str(refused.value)


def test_the_hash_of_a_key_is_the_one_that_tools_print(tmp_path: Path) -> None:
    """`printf %s KEY | sha256sum`."""
    digest = hashlib.sha256(b"k").hexdigest()

    assert load(tmp_path, f"inference_keys: {{a: {{key_sha256: {digest}}}}}").config.security.inference_keys["a"].key is None
    with pytest.raises(ConfigError, match="is the same key as inference_api_key"):
        load(tmp_path, f"inference_api_key: k, inference_keys: {{a: {{key_sha256: {digest}}}}}")


def test_a_reload_that_would_open_the_cloud_is_refused(tmp_path: Path) -> None:
    """The file that would do it is no configuration at all, so nothing of it is taken."""
    running = load(tmp_path, "profile: cloud, admin_key: a, inference_api_key: k")
    (tmp_path / "config.yaml").write_text("security: {profile: cloud, admin_key: a}")
    with pytest.raises(ConfigError, match=r"because security\.profile is cloud"):
        read_again(running)


def test_all_of_security_is_live() -> None:
    """Who may do what never waits for the next start."""
    security: set[Any] = {dotted for dotted in all_keys() if dotted.startswith("security.")}

    assert security <= LIVE_KEYS


@pytest.mark.parametrize(
    ("host", "security", "open_halves"),
    [
        ("127.0.0.1", "", None),
        ("::1", "", None),
        ("0.0.0.0", "admin_key: a, inference_api_key: k", None),
        ("0.0.0.0", f"admin_key: a, {TOKENS}", None),
        ("0.0.0.0", "", "/v1 (security.inference_api_key) and /admin (security.admin_key)"),
        ("192.0.2.1", "admin_key: a", "/v1 (security.inference_api_key)"),
        ("0.0.0.0", "inference_keys: {alice: {key: k}}", "/admin (security.admin_key)"),
    ],
)
def test_what_others_may_use_without_a_key_is_named(tmp_path: Path, host: str, security: str, open_halves: str | None) -> None:
    """For the warning at the start: the half that is open, and nothing where none is or nobody else gets there."""
    config = load(tmp_path, security, {"LMX_SERVER__HOST": host}).config

    said = None if open_halves is None else f"no key is set for {open_halves}: anyone who reaches the port may use it"
    assert said == open_to_others(config)
