"""Who holds how many places, and how many may be held: by all, of a model, by a client, by a key. Pure.

A request is given all of its places at once or none: nobody holds one while waiting for another.
"""

from collections import Counter
from collections.abc import Iterable

from lmx_supervisor.core.adaptive import memory_ceiling
from lmx_supervisor.core.ledger import Entry
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState


def ceiling_of_model(policy: Policy, slot: Slot) -> int:
    """How many requests may ever run on a model at once: its worker's slots, or fewer where the configuration says so."""
    return min(slot.capacity(), policy.per_model_concurrency_limits.get(slot.model_id, slot.capacity()))


def most_of_model(state: FleetState, slot: Slot) -> int:
    """How many may run now: the adaptive limit may be lower."""
    policy = state.policy
    ceiling = ceiling_of_model(policy, slot)
    if not policy.adaptive_concurrency_enabled:
        return ceiling
    least = min(policy.adaptive_min_concurrent_requests, ceiling)
    return max(least, min(slot.adaptive.limit(ceiling), memory_ceiling(ceiling, least, state.host, policy)))


def most_altogether(state: FleetState) -> int:
    """How many requests may run now: what the served models take, up to the limit for all of them."""
    models = sum(most_of_model(state, slot) for slot in state.slots.values() if slot.state in SERVING)
    return min(models, state.policy.max_concurrent_requests)


def most_of_client(policy: Policy, client: str) -> int | None:
    """How many requests of a client may run at once; None: nothing is said."""
    return policy.per_client_concurrency_overrides.get(client, policy.per_client_default_concurrency)


class Places:
    """The places that are taken at one moment. Counts of tokens take none, and are counted for their model only."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """By the requests in `entries` that have a worker; canaries hold nobody up."""
        self._total = 0
        self._of_share: Counter[str] = Counter()
        self._of_model: Counter[tuple[str, bool]] = Counter()
        self._of_share_on_model: Counter[tuple[str, str]] = Counter()
        self._of_client: Counter[str] = Counter()
        self._of_key: Counter[str] = Counter()
        for entry in entries:
            if entry.incarnation is not None and not entry.internal:
                self.take(entry)

    def take(self, entry: Entry) -> None:
        """A request got a worker."""
        self._of_model[entry.model_id, entry.takes_a_place] += 1
        if not entry.takes_a_place:
            return
        claim = entry.claim
        self._total += 1
        self._of_share[claim.share] += 1
        self._of_share_on_model[claim.share, entry.model_id] += 1
        self._of_client[claim.client] += 1
        if claim.key is not None:
            self._of_key[claim.key] += 1

    def of_share(self, share: str) -> int:
        """How many places somebody holds anywhere."""
        return self._of_share[share]

    def of_share_on(self, share: str, model_id: str) -> int:
        """How many places of a model somebody holds."""
        return self._of_share_on_model[share, model_id]

    def has_room(self, state: FleetState, slot: Slot, *, takes_a_place: bool) -> bool:
        """Whether a model, and the service, take one more of this kind.

        A model counts as many prompts beside its generations as it has slots: a count of tokens never waits for generations to
        end, and a flood of counts is bounded by itself.
        """
        taken = self._of_model[slot.model_id, takes_a_place]
        if not takes_a_place:
            return taken < slot.capacity()
        return taken < most_of_model(state, slot) and self._total < state.policy.max_concurrent_requests

    def may_have_more(self, policy: Policy, entry: Entry) -> bool:
        """Whether the client and the key of a request may have one more place."""
        if not entry.takes_a_place:
            return True
        claim = entry.claim
        of_client = most_of_client(policy, claim.client)
        client_may = of_client is None or self._of_client[claim.client] < of_client
        key_may = claim.key is None or claim.key_limit is None or self._of_key[claim.key] < claim.key_limit
        return client_may and key_may
