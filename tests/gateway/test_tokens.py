"""Signed tokens: what has to be right about one, and that nothing about its key set, here or not, ever opens a door."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.applications import Starlette

from lmx_protocol import limits
from lmx_supervisor.config.schema import Config, SecurityConfig
from lmx_supervisor.core.service import KeySetUnavailable
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.key_set import KeySet
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService

ISSUER, AUDIENCE = "https://project.example/auth/v1", "authenticated"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SECURITY = SecurityConfig(
    admin_key="admin",
    inference_api_key="k",
    supabase_jwt_enabled=True,
    supabase_jwt_issuer=ISSUER,
    supabase_jwt_audience=AUDIENCE,
    supabase_jwt_jwks_url="https://project.example/jwks.json",
)


def public(kid: str, algorithm: str, key: Any, **fields: Any) -> dict[str, Any]:
    """The entry of a key in a key set."""
    implementation = jwt.get_algorithm_by_name(algorithm)
    return {**implementation.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": algorithm, "use": "sig", **fields}


def key_set(*entries: dict[str, Any]) -> bytes:
    """The document that is published."""
    return json.dumps({"keys": entries}).encode()


KEYS = key_set(public("r", "RS256", RSA_KEY), public("e", "ES256", EC_KEY), public("d", "EdDSA", ED_KEY))


def claims(**changed: Any) -> dict[str, Any]:
    """Claims of a good token; None takes one away."""
    now = int(time.time())
    good = {"sub": "user-1", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def token(*, key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "r", **changed: Any) -> str:
    """A signed token."""
    return jwt.encode(claims(**changed), key, algorithm=algorithm, headers={"kid": kid} if kid is not None else None)


def forged(header: dict[str, Any], secret: bytes) -> str:
    """A token signed with a shared secret, which libraries refuse to make of a public key."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    signed = encoded(json.dumps(header).encode()) + b"." + encoded(json.dumps(claims()).encode())
    return (signed + b"." + encoded(hmac.digest(secret, signed, hashlib.sha256))).decode()


@pytest.fixture
def service() -> FedService:
    """A service that accepts tokens, and whose key set is there."""
    fed = FedService(Config(security=SECURITY))
    fed.key_set = KEYS
    return fed


async def answer(app: Starlette, bearer: str, path: str = "/v1/models", body: bytes = b"") -> tuple[int, Any]:
    """Status and body of a request with this in `Authorization`."""
    method = "POST" if body else "GET"
    request = Exchange(app, method, path, body=body, headers={"Authorization": f"Bearer {bearer}"})
    status = (await request.message())["status"]
    content = json.loads(await request.rest())
    await request.done()
    return status, content


@pytest.mark.parametrize(
    "good",
    [
        lambda: token(),
        lambda: token(key=EC_KEY, algorithm="ES256", kid="e"),
        lambda: token(key=ED_KEY, algorithm="EdDSA", kid="d"),
        lambda: token(aud=["other", AUDIENCE]),
        lambda: token(exp=int(time.time()) - limits.TOKEN_LEEWAY_SECONDS // 2),
        lambda: token(nbf=int(time.time()) - 5),
    ],
)
async def test_a_good_token_opens_inference_and_nothing_else(service: FedService, good: Callable[[], str]) -> None:
    """Of each kind of key, a little late too; /admin stays closed."""
    app = create_app(service)

    assert (await answer(app, good()))[0] == 200
    assert (await answer(app, good(), "/admin/status"))[0] == 403


RSA_PEM = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: token(exp=int(time.time()) - 2 * limits.TOKEN_LEEWAY_SECONDS), "ExpiredSignatureError"),
        (lambda: token(nbf=int(time.time()) + 600), "ImmatureSignatureError"),
        (lambda: token(iss="https://other.example"), "InvalidIssuerError"),
        (lambda: token(aud="other"), "InvalidAudienceError"),
        (lambda: token(exp=None), "MissingRequiredClaimError"),
        (lambda: token(iss=None), "MissingRequiredClaimError"),
        (lambda: token(aud=None), "MissingRequiredClaimError"),
        (lambda: token(sub=None), "does not say who its user is"),
        (lambda: token(sub=""), "does not say who its user is"),
        (lambda: token(key=OTHER_KEY), "InvalidSignatureError"),
        (lambda: token(kid="unknown"), "signed with an unknown key"),
        (lambda: token(kid=None), "signed with an unknown key"),
        (lambda: token(algorithm="RS512"), "InvalidAlgorithmError"),
        (lambda: token(kid="e"), "InvalidAlgorithmError"),
        (
            lambda: jwt.encode(claims(), "", "none", {"kid": "r"}),
            "signed with an algorithm that is not accepted",
        ),
        (lambda: forged({"alg": "HS256", "typ": "JWT", "kid": "r"}, RSA_PEM), "signed with an algorithm that is not accepted"),
        (lambda: forged({"alg": "RS256", "typ": "JWT", "kid": "r"}, RSA_PEM), "InvalidSignatureError"),
        (lambda: forged({"alg": "RS256", "typ": "JWT", "kid": ["r"]}, RSA_PEM), "not a token"),
        (lambda: token()[:-4] + "AAAA", "InvalidSignatureError"),
        (lambda: "a.b.c", "not a token"),
        (lambda: "not-a-token", "not a token"),
        (lambda: token(padding="x" * limits.TOKEN_BYTES_MAX), "not a token"),
    ],
)
async def test_a_bad_token_is_no_token(
    service: FedService, bad: Callable[[], str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong, the answer is that of a wrong key; the log says what it was, and the token is nowhere."""
    caplog.set_level("INFO")
    offered = bad()
    status, content = await answer(create_app(service), offered)

    assert (status, content["error"]["code"], content["error"]["message"]) == (
        401, "invalid_api_key", "Invalid or missing API key",
    )  # fmt: skip
    assert [record.token for record in caplog.records if record.name == "lmx.http"] == [reason]  # type: ignore[attr-defined]
    assert offered not in str([vars(record) for record in caplog.records])


async def test_keys_go_on_to_work_beside_tokens(service: FedService) -> None:
    """And do not wait for anybody's key set, which is not even asked for."""
    service.key_set = KeySetUnavailable("down")
    app = create_app(service)

    assert [(await answer(app, key))[0] for key in ("k", "admin", "wrong")] == [200, 200, 401]
    assert service.key_set_reads == 0


async def test_nothing_else_is_accepted_where_tokens_are_required(service: FedService) -> None:
    """No key but the admin's; the words are the runbook's. A reload puts it in force and takes it back."""
    app = create_app(service)
    required = {name: getattr(SECURITY, name) for name in SECURITY.__struct_fields__} | {"supabase_jwt_require": True}
    service.config = Config(security=SecurityConfig(**required))
    status, content = await answer(app, "k")

    assert (status, content["error"]["message"]) == (401, "Invalid or missing Supabase JWT")
    assert [(await answer(app, bearer))[0] for bearer in (token(), "admin")] == [200, 200]
    service.config = Config(security=SECURITY)
    assert (await answer(app, "k"))[0] == 200


@pytest.mark.parametrize(
    ("changed", "fresh"),
    [
        ({"supabase_jwt_enabled": False}, None),
        ({"supabase_jwt_issuer": "https://new.example"}, lambda: token(iss="https://new.example")),
        ({"supabase_jwt_audience": "new"}, lambda: token(aud="new")),
        ({"supabase_jwt_claim_user_id": "email"}, lambda: token(email="a@example.org")),
        ({"supabase_jwt_jwks_url": "https://new.example/jwks"}, lambda: token(key=OTHER_KEY, kid="new")),
    ],
)
@pytest.mark.live_keys(
    "security.supabase_jwt_enabled",
    "security.supabase_jwt_issuer",
    "security.supabase_jwt_audience",
    "security.supabase_jwt_claim_user_id",
    "security.supabase_jwt_jwks_url",
)
async def test_every_setting_changes_with_a_reload(
    service: FedService, changed: dict[str, Any], fresh: Callable[[], str] | None
) -> None:
    """A token that was good is none any more, and one that fits the new settings is."""
    app = create_app(service)
    assert (await answer(app, token()))[0] == 200
    fields = {name: getattr(SECURITY, name) for name in SECURITY.__struct_fields__} | changed
    service.config = Config(security=SecurityConfig(**fields))
    service.key_set = key_set(public("new", "RS256", OTHER_KEY)) if "supabase_jwt_jwks_url" in changed else KEYS

    assert (await answer(app, token()))[0] == 401
    if fresh is not None:
        assert (await answer(app, fresh()))[0] == 200


@pytest.mark.live_keys("security.supabase_jwt_require")
async def test_whether_a_token_is_required_changes_with_a_reload(service: FedService) -> None:
    """The inference key, which opened the door, does not do so any more; a token does."""
    app = create_app(service)
    before = (await answer(app, "k"))[0]
    service.config = Config(security=msgspec.structs.replace(SECURITY, supabase_jwt_require=True))

    assert (before, (await answer(app, "k"))[0], (await answer(app, token()))[0]) == (200, 401, 200)


async def test_a_user_is_counted_by_the_configured_claim(service: FedService) -> None:
    """Not by what the client calls itself."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()

    assert (await answer(create_app(service), token(), "/v1/chat/completions", body))[0] == 200
    assert [origin.client_id for origin in service.origins] == ["user-1"]


@pytest.mark.parametrize("found", [KeySetUnavailable("down"), b"<html>", b"{}", b'{"keys": [{}]}', key_set()])
async def test_without_a_key_set_every_token_is_refused(service: FedService, found: bytes | KeySetUnavailable) -> None:
    """A host that is down, or says something else, opens nothing, and is asked once for many tokens."""
    service.key_set = found
    app = create_app(service)

    assert [(await answer(app, token()))[0] for _ in range(5)] == [401] * 5
    assert service.key_set_reads == 1


async def test_secrets_and_keys_for_encryption_are_no_signing_keys(service: FedService) -> None:
    """A key set that holds a shared secret would let everybody who can check a token make one."""
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "kid": "s", "alg": "HS256"}
    service.key_set = key_set(secret, public("r", "RS256", RSA_KEY, use="enc"))
    app = create_app(service)

    assert (await answer(app, forged({"alg": "HS256", "kid": "s"}, b"s" * 32)))[0] == 401
    assert (await answer(app, token()))[0] == 401


class Clock:
    """A host of keys and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.published: bytes | KeySetUnavailable = key_set(public("r", "RS256", RSA_KEY))
        self.reads = 0
        self.keys = KeySet(self.read, now=lambda: self.now)

    async def read(self) -> bytes:
        self.reads += 1
        if isinstance(self.published, KeySetUnavailable):
            raise self.published
        return self.published

    async def knows(self, kid: str) -> bool:
        return await self.keys.find(kid) is not None


async def test_a_new_key_is_found_and_unknown_ones_cost_little() -> None:
    """Keys are rotated: an unknown id has the set read again, but only so often, whoever makes up how many ids."""
    host = Clock()
    assert await host.knows("r") and host.reads == 1
    host.published = key_set(public("n", "RS256", OTHER_KEY))
    assert not await host.knows("n") and host.reads == 1
    host.now += limits.KEY_SET_RETRY_SECONDS
    assert await host.knows("n") and host.reads == 2
    for number in range(20):
        assert not await host.knows(f"made-up-{number}")
    assert host.reads == 2


async def test_known_keys_outlive_their_host_for_a_day_only() -> None:
    """While it is down they are used; a key that was withdrawn long ago may not be."""
    host = Clock()
    await host.knows("r")
    host.published = KeySetUnavailable("down")
    host.now += limits.KEY_SET_STALE_SECONDS_MAX - 1
    assert await host.knows("r")
    host.now += 2
    assert not await host.knows("r")


async def test_a_withdrawn_key_is_forgotten_when_the_set_is_read_again() -> None:
    """What is not fresh is read again in the background, for the tokens after."""
    host = Clock()
    await host.knows("r")
    host.published = key_set(public("n", "RS256", OTHER_KEY))
    host.now += limits.KEY_SET_FRESH_SECONDS + 1
    await host.knows("r")
    await host.knows("n")

    assert not await host.knows("r")
