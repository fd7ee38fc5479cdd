"""How soon a server answers /healthz while it has other things to do."""

import statistics
import threading
import time
from dataclasses import dataclass, field

from tests.support.live import LiveServer, wait_until
from tests.support.wire import Wire, request

PROBE = request("GET", "/healthz")
PROBE_PAUSE_SECONDS = 0.005


@dataclass
class Prober:
    """Asks /healthz over one connection, again and again, on a thread of its own."""

    server: LiveServer
    seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> "Prober":
        self._stop = threading.Event()
        self._wire = Wire(self.server.url)
        self._thread = threading.Thread(target=self._probe, name="prober")
        self._thread.start()
        wait_until(lambda: bool(self.seconds), 5.0, "the first probe")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._wire.close()

    @property
    def p99_seconds(self) -> float:
        return statistics.quantiles(self.seconds, n=100)[98]

    def _probe(self) -> None:
        while not self._stop.wait(PROBE_PAUSE_SECONDS):
            started = time.monotonic()
            self._wire.send(PROBE)
            assert self._wire.response().status == 200
            self.seconds.append(time.monotonic() - started)
