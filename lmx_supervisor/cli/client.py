"""HTTP to the running server: documents in and out, and the events of a stream. Every failure leaves as a `CommandFailure`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx
import msgspec

from lmx_protocol import limits
from lmx_supervisor.cli.answer import Problem
from lmx_supervisor.cli.connection import Connection
from lmx_supervisor.cli.failures import NoAnswer, NoServer, ServerRefused
from lmx_supervisor.cli.sse import event_data


class _Envelope(msgspec.Struct, frozen=True):
    error: Problem


class Client:
    """One server. Usable from several threads; close it, or use it in a `with`."""

    def __init__(self, connection: Connection, *, patience_seconds: float | None = None) -> None:
        """`patience_seconds` is for those who would rather have no answer of a document than wait for it."""
        self.url = connection.url
        self._answer_seconds = patience_seconds or limits.CLI_ANSWER_SECONDS
        # A proxy from the environment is for the internet, and would be asked for 127.0.0.1.
        self._http = httpx.Client(base_url=connection.url, headers=connection.headers(), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON document at `path`. Raises `NoServer`, `NoAnswer`, `ServerRefused`."""
        return _accepted(*self._exchange("GET", path, answer_seconds=self._answer_seconds))

    def post(self, path: str, body: Mapping[str, Any], *, answer_seconds: float | None = limits.CLI_ANSWER_SECONDS) -> Any:
        """Send a JSON document, return the one that answers it. `answer_seconds` None waits as long as the server works.

        Raises `NoServer`, `NoAnswer`, `ServerRefused`.
        """
        return _accepted(*self._exchange("POST", path, body, answer_seconds))

    def delete(self, path: str) -> Any:
        """Delete what is at `path`, return the document that answers it. Raises `NoServer`, `NoAnswer`, `ServerRefused`."""
        return _accepted(*self._exchange("DELETE", path))

    def readiness(self) -> str | None:
        """Why the server is not ready; None when it is. Raises `NoServer`, `NoAnswer`."""
        status, content = self._exchange("GET", "/readyz")
        if status == httpx.codes.OK:
            return None
        try:
            reason = msgspec.json.decode(content).get("reason")
        except (msgspec.DecodeError, AttributeError):
            reason = None
        return str(reason or f"/readyz answers {status}")

    @contextmanager
    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """Send a JSON document, receive a stream: the `data` of each of its events. Leaving the block ends the request.

        Raises `NoServer`, `NoAnswer`, `ServerRefused`, also while the events are read.
        """
        with self._stream("POST", path, dict(body), limits.CLI_STREAM_SILENCE_SECONDS) as data:
            yield data

    @contextmanager
    def listen(self, path: str) -> Iterator[Iterator[str]]:
        """The `data` of each event of a stream that is silent for as long as nothing happens.

        Raises `NoServer`, `NoAnswer`, `ServerRefused`, also while the events are read.
        """
        with self._stream("GET", path, None, None) as data:
            yield data

    @contextmanager
    def _stream(
        self, method: str, path: str, body: dict[str, Any] | None, silence_seconds: float | None
    ) -> Iterator[Iterator[str]]:
        patience = _timeout(silence_seconds)
        with _failures(self.url), self._http.stream(method, path, json=body, timeout=patience) as response:
            if response.status_code != httpx.codes.OK:
                _accepted(response.status_code, _content(response))
            yield event_data(response.iter_bytes(), line_bytes_max=limits.CLI_STREAM_LINE_BYTES_MAX)

    def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        answer_seconds: float | None = limits.CLI_ANSWER_SECONDS,
    ) -> tuple[int, bytes]:
        patience = _timeout(answer_seconds)
        json = None if body is None else dict(body)
        with _failures(self.url), self._http.stream(method, path, json=json, timeout=patience) as response:
            return response.status_code, _content(response)


def _timeout(answer_seconds: float | None) -> httpx.Timeout:
    connect_seconds = min(limits.CLI_CONNECT_SECONDS, answer_seconds or limits.CLI_CONNECT_SECONDS)
    return httpx.Timeout(answer_seconds, connect=connect_seconds)


def _content(response: httpx.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > limits.CLI_DOCUMENT_BYTES_MAX:
            raise NoAnswer(f"the server sent more than {limits.CLI_DOCUMENT_BYTES_MAX} bytes; is this an LMX server?")
    return bytes(content)


def _accepted(status: int, content: bytes) -> Any:
    if not httpx.codes.is_success(status):
        raise _refusal(status, content)
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoAnswer("the server answered with something else than JSON; is this an LMX server?") from error


def _refusal(status: int, content: bytes) -> ServerRefused:
    try:
        problem = msgspec.json.decode(content, type=_Envelope).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ServerRefused(f"the server answered HTTP {status} without an explanation; is this an LMX server?", None)
    return ServerRefused(problem.message, problem.code or f"HTTP {status}")


@contextmanager
def _failures(url: str) -> Iterator[None]:
    """httpx's exceptions to ours, in one place."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NoServer(url) from error
    except httpx.TimeoutException as error:
        raise NoAnswer(f"the server at {url} accepted the request and then was silent for too long") from error
    except httpx.HTTPError as error:
        raise NoAnswer(f"the connection to the server at {url} broke: {error}") from error
