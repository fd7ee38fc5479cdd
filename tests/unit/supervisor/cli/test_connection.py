"""Which server a command talks to."""

from pathlib import Path

import pytest

from lmx_supervisor.cli.connection import Connection, connect_to, find_server
from lmx_supervisor.cli.failures import UsageFailure


def test_the_option_beats_the_server_file_beats_the_default(tmp_path: Path) -> None:
    """Each source is used only when the ones before it say nothing."""
    assert find_server(None, tmp_path) == "http://127.0.0.1:1234"
    (tmp_path / "server.json").write_text('{"url": "http://127.0.0.1:8080", "pid": 1}')
    assert find_server(None, tmp_path) == "http://127.0.0.1:8080"
    assert find_server("https://mac.local/", tmp_path) == "https://mac.local"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_broken_server_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """A half-written or foreign file does not stop a command."""
    (tmp_path / "server.json").write_bytes(content)
    assert find_server(None, tmp_path) == "http://127.0.0.1:1234"


@pytest.mark.parametrize("url", ["localhost:1234", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://x:0"])
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    """A mistyped address is a usage error that shows what one looks like."""
    with pytest.raises(UsageFailure, match="looks like http://"):
        find_server(url, tmp_path)


def test_keys_become_the_headers_of_the_contract(tmp_path: Path) -> None:
    """The API key is a bearer token, the admin key has its own header, and no key means no header."""
    assert Connection(url="http://x").headers() == {}
    keys = connect_to(url=None, api_key="a", admin_key="b", home=tmp_path).headers()
    assert keys == {"Authorization": "Bearer a", "X-Admin-Key": "b"}


def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    """A pasted newline is told as such, without repeating the key."""
    with pytest.raises(UsageFailure, match="the admin key has characters") as refused:
        connect_to(url=None, api_key=None, admin_key="se\ncret", home=tmp_path)
    assert "cret" not in str(refused.value)
