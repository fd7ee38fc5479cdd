"""The hook through which a backend may lie on the socket. Real backends have none; `scripted` tests the supervisor with it."""

from collections.abc import Iterable
from typing import Protocol

from lmx_protocol.messages import FromWorker, ToWorker
from lmx_worker.backends.base import Backend


class Sabotage(Protocol):
    """Called for every message of this worker, in both directions, from whichever thread sends or receives it."""

    def outgoing(self, message: FromWorker) -> Iterable[FromWorker | bytes]:
        """What goes out instead of `message`; bytes go out as they are."""

    def incoming(self, message: ToWorker) -> ToWorker | None:
        """What the worker gets to see instead of `message`; None: nothing."""


def sabotage_of(backend: Backend) -> Sabotage | None:
    """The backend's `sabotage` attribute, if it has one."""
    sabotage: Sabotage | None = getattr(backend, "sabotage", None)
    return sabotage
