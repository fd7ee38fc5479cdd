"""Where the running server is, and the keys to it."""

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from lmx_supervisor.cli.failures import UsageFailure
from lmx_supervisor.config.schema import ServerConfig

SERVER_FILE_NAME = "server.json"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one server. `url` has no trailing slash."""

    url: str
    api_key: str | None = None
    admin_key: str | None = None

    def headers(self) -> dict[str, str]:
        """The request headers that carry the keys; the server also accepts the admin key for inference."""
        headers = {}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if self.admin_key:
            headers["X-Admin-Key"] = self.admin_key
        return headers


class ServerFile(msgspec.Struct, frozen=True):
    """What a running server writes to `<home>/server.json`, and removes when it stops."""

    url: str
    pid: int | None = None


def read_server_file(home: Path) -> ServerFile | None:
    """The server that runs in `home`, as far as its file says. None: no file, or not a readable one."""
    try:
        return msgspec.json.decode((home / SERVER_FILE_NAME).read_bytes(), type=ServerFile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def find_server(url: str | None, home: Path) -> str:
    """The address to talk to: the one given, else the server file's, else the default one. Raises `UsageFailure`."""
    if url is None:
        running = read_server_file(home)
        defaults = ServerConfig()
        url = running.url if running else f"http://{defaults.host}:{defaults.port}"
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http:
        raise UsageFailure(f"'{url}' is not the address of a server; one looks like http://127.0.0.1:1234")
    return url.rstrip("/")


def connect_to(*, url: str | None, api_key: str | None, admin_key: str | None, home: Path) -> Connection:
    """The server to talk to, with the keys for it. Raises `UsageFailure`."""
    for name, key in (("API key", api_key), ("admin key", admin_key)):
        if key and not (key.isascii() and key.isprintable()):
            raise UsageFailure(f"the {name} has characters that an HTTP header cannot carry")
    return Connection(url=find_server(url, home), api_key=api_key, admin_key=admin_key)
