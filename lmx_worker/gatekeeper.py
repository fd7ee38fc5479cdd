"""Who may speak on the worker's socket: exactly the one client key that came with the boot specification.

CURVE by itself encrypts and proves the server's key to the client, but lets any client in. libzmq asks a ZAP handler (ZeroMQ
RFC 27) about each one; `zap_reply` is that handler, as a function from request frames to reply frames.
"""

import hmac

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"lmx"

_VERSION = b"1.0"
_CREDENTIALS_FRAME = 6


def zap_reply(request: list[bytes], admitted_key: bytes) -> list[bytes]:
    """Admit (200) or refuse (400) one handshake.

    Args:
        request: version, request id, domain, address, identity, mechanism, and for CURVE the client's 32-byte public key.
        admitted_key: the one key that is let in, 32 bytes.
    """
    request_id = request[1] if len(request) > 1 else b""
    is_known = (
        len(request) == _CREDENTIALS_FRAME + 1
        and request[0] == _VERSION
        and request[5] == b"CURVE"
        and hmac.compare_digest(request[_CREDENTIALS_FRAME], admitted_key)
    )
    status = [b"200", b"OK", b"supervisor"] if is_known else [b"400", b"unknown key", b""]
    return [_VERSION, request_id, *status, b""]
