"""What must hold between the values of `security`: nothing that is meant to lock a door may leave it open, or lock nothing."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from lmx_supervisor.config.broken_rule import BrokenRule
from lmx_supervisor.config.named_keys import digest_of, sha256_of
from lmx_supervisor.config.rate_limits import parsed_limits
from lmx_supervisor.config.schema import Config, RateLimitConfig, SecurityConfig, inference_needs_key

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_ENABLED = "security.supabase_jwt_enabled"


def broken_security_rules(security: SecurityConfig) -> list[BrokenRule]:
    """Every rule that is broken."""
    return [
        *_open_in_the_cloud(security),
        *_equal_keys(security),
        *_half_configured_tokens(security),
        *_unusable_limits(security),
        *_unusable_proxies(security),
        *_unusable_origins(security),
    ]


def open_to_others(config: Config) -> str | None:
    """What other machines may use without a key, in words; None: nothing."""
    if config.server.host in _LOOPBACK_HOSTS:
        return None
    open_halves = [
        half
        for half, is_open in (
            ("/v1 (security.inference_api_key)", not inference_needs_key(config.security)),
            ("/admin (security.admin_key)", config.security.admin_key is None),
        )
        if is_open
    ]
    return f"no key is set for {' and '.join(open_halves)}: anyone who reaches the port may use it" if open_halves else None


def _open_in_the_cloud(security: SecurityConfig) -> Iterator[BrokenRule]:
    if security.profile != "cloud":
        return
    because = "because security.profile is cloud"
    if security.admin_key is None:
        yield BrokenRule("security.admin_key", "security.profile", f"must be set, {because}")
    if not inference_needs_key(security):
        reason = f"must be set (or security.inference_keys, or {_ENABLED}), {because}"
        yield BrokenRule("security.inference_api_key", "security.profile", reason)


def _equal_keys(security: SecurityConfig) -> Iterator[BrokenRule]:
    """A key that stands there under two names would be one of them by chance."""
    taken = {
        sha256_of(key): name
        for name in ("admin_key", "inference_api_key")
        if (key := getattr(security, name)) is not None
    }  # fmt: skip
    for name, key in security.inference_keys.items():
        dotted = f"security.inference_keys.{name}"
        digest = digest_of(key)
        if digest in taken:
            yield BrokenRule(dotted, dotted, f"is the same key as {taken[digest]}; give each its own")
        taken[digest] = name


def _half_configured_tokens(security: SecurityConfig) -> Iterator[BrokenRule]:
    if security.supabase_jwt_require and not security.supabase_jwt_enabled:
        yield BrokenRule(_ENABLED, "security.supabase_jwt_require", "must be true, because security.supabase_jwt_require is")
    if not security.supabase_jwt_enabled:
        return
    for name in ("supabase_jwt_issuer", "supabase_jwt_audience", "supabase_jwt_jwks_url"):
        if not getattr(security, name):
            yield BrokenRule(f"security.{name}", _ENABLED, f"must be set, because {_ENABLED} is true")
    if security.supabase_jwt_jwks_url and not _is_key_set_address(security.supabase_jwt_jwks_url):
        key = "security.supabase_jwt_jwks_url"
        reason = "must be an https:// address (http:// on the loopback only), a file:// address, or an absolute path"
        yield BrokenRule(key, key, reason)


def _is_key_set_address(address: str) -> bool:
    if address.startswith(("/", "~/")):
        return True
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return False
    if parts.scheme == "file":
        return not parts.netloc and parts.path.startswith("/")
    # Whoever can answer in the place of the host decides who is let in.
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK_HOSTS))


def _unusable_limits(security: SecurityConfig) -> Iterator[BrokenRule]:
    for name in ("default_limit", "chat_completions_limit", "embeddings_limit"):
        key = f"security.rate_limit.{name}"
        text = getattr(security.rate_limit, name)
        # The default is known to be one, and reading limits takes a library that most configurations do without.
        if text is not None and (security.rate_limit.enabled or text != getattr(RateLimitConfig(), name)):
            try:
                parsed_limits(text)
            except ValueError as error:
                yield BrokenRule(key, key, str(error))


def _unusable_proxies(security: SecurityConfig) -> Iterator[BrokenRule]:
    key = "security.trusted_proxies"
    if security.honor_x_forwarded_for and not security.trusted_proxies:
        reason = "must name the proxies to believe, because security.honor_x_forwarded_for is true"
        yield BrokenRule(key, "security.honor_x_forwarded_for", reason)
    for text in security.trusted_proxies:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield BrokenRule(key, key, f"'{text}' is neither an address nor a network such as 10.0.0.0/8")


def _unusable_origins(security: SecurityConfig) -> Iterator[BrokenRule]:
    key = "security.cors_allowed_origins"
    for text in security.cors_allowed_origins:
        if text != "*" and not _is_origin(text):
            yield BrokenRule(key, key, f"'{text}' is no origin; one looks like https://example.org or http://localhost:3000")


def _is_origin(text: str) -> bool:
    """Scheme and host, perhaps a port, and nothing else: as browsers send it."""
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and text == f"{parts.scheme}://{parts.netloc}" == text.lower() and parts.port != 0
    except ValueError:
        return False
