"""Under which names and addresses other machines may reach this one."""

import ipaddress
import socket
from collections.abc import Iterable

import psutil

_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_LOCAL_SUFFIX = ".local"
_LOOPBACK = "127.0.0.1"


def own_addresses(bound_to: str) -> tuple[str, ...]:
    """Where a server that is bound to `bound_to` may be asked for, by name or address; quick, and never asks a resolver."""
    if bound_to not in _EVERY_ADDRESS:
        return (bound_to,)
    interfaces = (address.address for addresses in psutil.net_if_addrs().values() for address in addresses)
    return reachable_names(socket.gethostname(), interfaces, with_ipv6=bound_to == "::") or (_LOOPBACK,)


def reachable_names(hostname: str, interfaces: Iterable[str], *, with_ipv6: bool) -> tuple[str, ...]:
    """What of this machine's name and its interfaces' addresses another machine could use. Pure.

    A name is one only as `*.local`: that is what a machine answers to without anybody's name server. Link-local addresses
    would need the other machine's name for the wire.
    """
    names = [hostname] if hostname.endswith(_LOCAL_SUFFIX) else []
    for text in interfaces:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:  # a hardware address
            continue
        if not address.is_link_local and (with_ipv6 or isinstance(address, ipaddress.IPv4Address)):
            names.append(str(address))
    return tuple(dict.fromkeys(names))
