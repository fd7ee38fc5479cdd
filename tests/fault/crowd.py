"""Many clients at once, each with a stream of its own on a thread of its own."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from tests.fault.acts import pieces_in
from tests.support.live import LiveServer, wait_until

_END_SECONDS = 120.0
_SPEAK_SECONDS = 30.0


class Crowd:
    """Starts streams and gathers them; leaving the `with` waits until all have ended."""

    def __init__(self, server: LiveServer, model_id: str) -> None:
        self._server = server
        self._model_id = model_id
        self._http = httpx.Client(
            base_url=server.url, timeout=_END_SECONDS, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )
        self._heard: list[list[str]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for thread in self._threads:
            thread.join(_END_SECONDS)
        self._http.close()

    def start(self, count: int, prompt_of: Callable[[int], str]) -> None:
        """Start this many streams; the prompt is made from the number of each."""
        for number in range(count):
            heard: list[str] = []
            self._heard.append(heard)
            thread = threading.Thread(target=self._listen, args=(prompt_of(number), heard), name=f"crowd-{number}")
            self._threads.append(thread)
            thread.start()

    def wait_until_all_speak(self) -> None:
        """Every stream started so far has had text."""
        wait_until(lambda: all(pieces_in(list(heard)) for heard in self._heard), _SPEAK_SECONDS, "all streams to speak")

    def ends(self) -> list[list[str]]:
        """Wait for all streams; their payloads in the order in which they were started."""
        for thread in self._threads:
            thread.join(_END_SECONDS)
            assert not thread.is_alive(), "a stream does not end"
        return self._heard

    def _listen(self, prompt: str, heard: list[str]) -> None:
        heard.extend(self._server.stream(self._model_id, prompt, http=self._http))
