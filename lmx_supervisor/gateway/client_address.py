"""Where a client connects from: the peer of the connection, or what a trusted reverse proxy says in `X-Forwarded-For`.

Each proxy appends the address it was asked from, so only the right end of the list is known to be true: the client is the last
hop that is no trusted proxy. What stands to the left of it was sent by the client and can be anything. Used for limits and for
the log; no key and no right ever depends on it.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Scope

from lmx_protocol import limits
from lmx_supervisor.config.schema import SecurityConfig

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(scope: Scope, security: SecurityConfig) -> str | None:
    """The address of the client; None where a connection has none, as on a Unix socket."""
    peer: str | None = scope["client"][0] if scope.get("client") else None
    if peer is None or not security.honor_x_forwarded_for:
        return peer
    trusted = _networks(security.trusted_proxies)
    last = _address(peer)
    if last is None:
        return peer
    for text in reversed(_hops(scope["headers"])):
        if not _is_in(last, trusted):
            break
        hop = _address(text)
        if hop is None:
            break
        last = hop
    return str(last)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The entries of all the headers, which are one list, the nearest hop last; of a long list, its end."""
    lines = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return ",".join(lines).split(",")[-limits.FORWARDED_HOPS_MAX :] if lines else []


def _address(text: str) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`; addresses of IPv4 within IPv6 are those of IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


@lru_cache(maxsize=4)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
