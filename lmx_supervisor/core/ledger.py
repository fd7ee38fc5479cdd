"""The accepted requests that have not ended: where each is, and the promise that each ends exactly once."""

from collections.abc import Iterable
from dataclasses import dataclass

from lmx_protocol.messages import AnyRequest, AnyRequestEvent, Cancelled, CountRequest, Failed, Finished
from lmx_supervisor.core.claims import NO_CLAIM, Claim


@dataclass(slots=True)
class Entry:
    """One accepted request. Waiting while `incarnation` is None, else leased to that worker."""

    request: AnyRequest
    model_id: str
    arrived_at: float
    """Monotonic second."""
    claim: Claim = NO_CLAIM
    arrival: int = 0
    """Grows with every request that is accepted."""
    turn: int = 0
    """What its client's last turn on this model counts as, if it had none since: see `Turns.of_newcomer`."""
    turn_anywhere: int = 0
    """The same for all models together."""
    leased_at: float = 0.0
    """Monotonic second of the last lease."""
    computed_tokens: int = 0
    """Of its prompt, those that no cache saved."""
    has_begun: bool = False
    """Its worker has sent text."""
    incarnation: str | None = None
    next_seq: int = 0
    """Of the worker's events; they must come without gaps."""
    delivered_output: bool = False
    """Something that a client may have read: it cannot be answered a second time. Vectors and scores may come twice."""
    replays: int = 0
    cancelled: bool = False
    too_late: str | None = None
    """It was cancelled because its time was over: what its client is told of that."""
    cancelled_at: float = 0.0
    """Monotonic second of the cancel, for a leased request."""
    tokens: int = 0
    """Delivered to the reader so far."""
    trial_until_tokens: int = 0
    """It was in flight at a crash; until it has delivered this many tokens it is on trial."""
    internal: bool = False
    """The canary: nobody reads its events."""

    @property
    def on_trial(self) -> bool:
        """Whether the next crash would be held against this request alone."""
        return self.tokens < self.trial_until_tokens

    @property
    def ends_by(self) -> float | None:
        """Monotonic second after which its client does not want the answer any more."""
        seconds = self.claim.time_limit_seconds
        return None if seconds is None else self.arrived_at + seconds

    @property
    def takes_a_place(self) -> bool:
        """See the function of that name."""
        return takes_a_place(self.request)

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.request_id


def takes_a_place(request: AnyRequest) -> bool:
    """Whether the worker computes it in one of its slots. Counting tokens is done beside them, and waits for none."""
    return not isinstance(request, CountRequest)


class Ledger:
    """Entries by request id. An entry leaves when its terminal event is delivered; nothing can be delivered after that."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def add(self, entry: Entry) -> None:
        """Accept a request. Raises `ValueError` if its id is in use."""
        if entry.request_id in self._entries:
            raise ValueError(f"request id {entry.request_id} is in use")
        self._arrivals += 1
        entry.arrival = self._arrivals
        self._entries[entry.request_id] = entry

    def get(self, request_id: str) -> Entry | None:
        """The entry of a request that has not ended."""
        return self._entries.get(request_id)

    def of_incarnation(self, incarnation: str) -> list[Entry]:
        """The entries leased to a worker, oldest first."""
        return [entry for entry in self._entries.values() if entry.incarnation == incarnation]

    @property
    def entries(self) -> Iterable[Entry]:
        """All of them, the oldest first."""
        return self._entries.values()

    def end(self, request_id: str) -> None:
        """Forget a request whose terminal event is being delivered."""
        del self._entries[request_id]

    def postpone(self, seconds: float) -> None:
        """Forget that time passed."""
        for entry in self._entries.values():
            entry.arrived_at += seconds
            entry.leased_at += seconds
            entry.cancelled_at += seconds


def is_terminal(event: AnyRequestEvent) -> bool:
    """Whether nothing can follow this event."""
    return isinstance(event, Finished | Failed | Cancelled)
