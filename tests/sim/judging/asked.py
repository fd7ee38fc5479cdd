"""A client's request in the books of the judges."""

from dataclasses import dataclass, field

from lmx_protocol.messages import AnyRequestEvent, GenerateRequest
from lmx_supervisor.core.claims import Claim


@dataclass(slots=True)
class Asked:
    """A request as its client and the workers know it. Times are awake seconds."""

    number: int
    """Grows with every request."""
    request: GenerateRequest
    claim: Claim
    at: float
    waiting_since_death: bool = True
    """It has no worker that lives."""
    cancelled: bool = False
    told_to_stop: bool = False
    """Its worker was sent a cancel."""
    leases: list[str] = field(default_factory=list)
    leased_at: float = 0.0
    texts_heard: int = 0
    has_text: bool = False
    end: AnyRequestEvent | None = None
    passed_by: set[str] = field(default_factory=set)
    """Whose requests got a place of its model while it waited for one and nothing but turns stood in its way."""

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.request_id

    @property
    def model_id(self) -> str:
        """The model it is for."""
        return self.request.model_id

    @property
    def runs(self) -> bool:
        """Whether it holds a place."""
        return not self.waiting_since_death

    @property
    def ends_by(self) -> float | None:
        """When its client does not want the answer any more; None: it did not say."""
        seconds = self.claim.time_limit_seconds
        return None if seconds is None else self.at + seconds

    def __str__(self) -> str:
        """For the text of a broken promise."""
        return f"{self.request_id} ({self.claim.share}, {self.claim.lane})"
