"""Reading the public keys that tokens are signed with, from a file or over HTTP, off the loop and within bounds."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lmx_protocol import limits
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import KeySetUnavailable

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_OK = 200


class KeySetReader:
    """Reads one document at a time, for at most `KEY_SET_SECONDS`; what hangs longer keeps a thread and nobody else."""

    def __init__(self) -> None:
        self._calls = DiskCalls(at_once=2, seconds=limits.KEY_SET_SECONDS)

    async def read(self, address: str) -> bytes:
        """The document at a path or address. Raises `KeySetUnavailable`."""
        try:
            return await self._calls.run(lambda: _read(address))
        except Refusal as refusal:
            raise KeySetUnavailable(f"{address} did not answer within {limits.KEY_SET_SECONDS:g} seconds") from refusal


def _read(address: str) -> bytes:
    scheme = urlsplit(address).scheme
    if scheme in ("http", "https"):
        return _read_http(address)
    path = Path(unquote(urlsplit(address).path)) if scheme == "file" else Path(address).expanduser()
    try:
        with path.open("rb") as file:
            return _bounded(file.read(limits.KEY_SET_BYTES_MAX + 1), address)
    except OSError as error:
        raise KeySetUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _read_http(address: str) -> bytes:
    # Here, because it takes long to import and only those who configured tokens need it.
    import httpx

    # A proxy of the environment is for the internet. Redirects are not followed: the address that was configured is trusted.
    over_proxy = urlsplit(address).hostname not in _LOOPBACK_HOSTS
    try:
        with (
            httpx.Client(timeout=limits.KEY_SET_SECONDS, trust_env=over_proxy) as client,
            client.stream("GET", address, headers={"Accept": "application/json"}) as response,
        ):
            if response.status_code != _OK:
                raise KeySetUnavailable(f"{address} answered with status {response.status_code}")
            document = b""
            for part in response.iter_bytes():
                document = _bounded(document + part, address)
            return document
    except httpx.HTTPError as error:
        raise KeySetUnavailable(f"{address} cannot be reached: {type(error).__name__}") from error


def _bounded(document: bytes, address: str) -> bytes:
    if len(document) > limits.KEY_SET_BYTES_MAX:
        raise KeySetUnavailable(f"what is at {address} is larger than {limits.KEY_SET_BYTES_MAX} bytes")
    return document
