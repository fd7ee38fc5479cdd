"""Promises to those who wait together: no limit is exceeded, no free place stays empty, and nobody is passed over.

The judge keeps its own books of who holds which places. One is passed over who waits, stopped by no limit, while a place of its
model goes to somebody of a less urgent lane, to somebody on its level who holds more places than it does, to the same other one
twice, or to a later request that is like it in everything. The level of a lane rises while somebody waits in it. Who is stopped
by what cannot always be told from outside, so the one that got the place is supposed to be as urgent as it can be, and the one
that waits no more urgent than it is for its own sake.
"""

from collections import Counter
from collections.abc import Iterable

from lmx_protocol import limits
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import Slot
from tests.sim.judging.asked import Asked
from tests.sim.judging.promise import EPSILON_SECONDS, AwakeClock, promise

_URGENCY = {Lane.INTERACTIVE: 0, Lane.NORMAL: 1, Lane.THROUGHPUT: 2}
_SERVES = (WorkerState.READY, WorkerState.BUSY)


class Books:
    """Who waits and who holds how many places, at one moment."""

    def __init__(self, policy: Policy, requests: Iterable[Asked]) -> None:
        self._policy = policy
        self.waiting: list[Asked] = []
        self.total = 0
        self.of_model: Counter[str] = Counter()
        self.of_share: Counter[tuple[str, str]] = Counter()
        """By model."""
        self._of_client: Counter[str] = Counter()
        self._of_key: Counter[str | None] = Counter()
        for one in requests:
            if not one.runs:
                self.waiting.append(one)
                continue
            self.total += 1
            self.of_model[one.model_id] += 1
            self.of_share[one.model_id, one.claim.share] += 1
            self._of_client[one.claim.client] += 1
            self._of_key[one.claim.key] += 1

    def waiting_for(self, model_id: str) -> list[Asked]:
        """Those who wait for a model, the oldest first."""
        return [one for one in self.waiting if one.model_id == model_id]

    def has_room(self) -> bool:
        """Whether one more may run, of all models together."""
        return self.total < self._policy.max_concurrent_requests

    def client_may(self, asked: Asked) -> bool:
        """Whether its client may have one more."""
        policy, client = self._policy, asked.claim.client
        at_most = policy.per_client_concurrency_overrides.get(client, policy.per_client_default_concurrency)
        return at_most is None or self._of_client[client] < at_most

    def key_may(self, asked: Asked) -> bool:
        """Whether its key may have one more."""
        key, at_most = asked.claim.key, asked.claim.key_limit
        return key is None or at_most is None or self._of_key[key] < at_most


class TurnsJudge:
    """Watches places being given away. `waiting_or_running` are the requests without an end, the oldest first."""

    def __init__(self, fleet: Fleet, waiting_or_running: dict[str, Asked], clock: AwakeClock) -> None:
        self._fleet = fleet
        self._open = waiting_or_running
        self._clock = clock

    def leased(self, asked: Asked) -> None:
        """Judge a lease; the books show it as waiting still."""
        books = self._books()
        self._judge_limits(books, asked)
        waiting = books.waiting_for(asked.model_id)
        for other in waiting:
            if other is asked:
                continue
            # One that lost its place with its worker is before everybody else.
            if not asked.leases and self._may_run(books, other):
                self._judge_turn(books, asked, other, waiting)
            if other.claim.share == asked.claim.share:
                other.passed_by.clear()
            else:
                other.passed_by.add(asked.claim.share)

    def crowded_out(self, asked: Asked, newcomer: Asked) -> None:
        """Judge who was sent away when one too many had come: nobody fills a line before others come."""
        books = self._books()
        line = books.waiting_for(newcomer.model_id)
        if len(line) <= self._fleet.policy.queue_per_model:
            line = books.waiting
        # Those who lost their place with their worker are none too many.
        line = [one for one in line if not one.leases]
        count = Counter(one.claim.share for one in line)
        own, most = count[newcomer.claim.share], max(count.values())
        if own == most:
            promise(asked is newcomer, "{} was crowded out by {}, whose client has as many", asked, newcomer)
            return
        its_client = [one for one in line if one.claim.share == asked.claim.share]
        last = max(its_client, key=lambda one: (_URGENCY[one.claim.lane], one.number))
        is_right = count[asked.claim.share] == most and asked is last
        promise(is_right, "{} was crowded out by {}, and is not the last of who has the most", asked, newcomer)

    def judge_places(self) -> None:
        """After a tick nobody waits who could run."""
        books = self._books()
        if not books.has_room():
            return
        for one in books.waiting:
            slot = self._fleet.state.slots[one.model_id]
            incarnation = self._fleet.state.incarnation_of(slot)
            serves = slot.state in _SERVES and incarnation is not None and incarnation.takes_work
            has_room = books.of_model[one.model_id] < self._places_of(slot)
            promise(not (serves and has_room and self._may_run(books, one)), "{} could run and waits", one)

    def _books(self) -> Books:
        return Books(self._fleet.policy, self._open.values())

    # --- limits -------------------------------------------------------------------------------------------------------------

    def _judge_limits(self, books: Books, asked: Asked) -> None:
        at_most, places = self._fleet.policy.max_concurrent_requests, self._places_of(self._fleet.state.slots[asked.model_id])
        promise(books.has_room(), "{} is one more than the {} of all models", asked, at_most)
        promise(books.of_model[asked.model_id] < places, "{} is one more than the {} of its model", asked, places)
        promise(books.client_may(asked), "{} is one more than its client may have", asked)
        promise(books.key_may(asked), "{} is one more than its key may have", asked)

    def _places_of(self, slot: Slot) -> int:
        """Of a model: its worker's, or fewer as configured, or fewer while it is slow."""
        its_own = slot.facts.slots if slot.facts is not None else slot.spec.slots
        at_most = min(its_own, self._fleet.policy.per_model_concurrency_limits.get(slot.model_id, its_own))
        return max(1, at_most - slot.adaptive.held_back)

    def _may_run(self, books: Books, asked: Asked) -> bool:
        """Whether no limit of its own stops it. Who is on trial runs alone, and may have to wait for that."""
        if not (books.client_may(asked) and books.key_may(asked)):
            return False
        entry = self._fleet.state.ledger.get(asked.request_id)
        return entry is not None and not entry.on_trial

    # --- turns --------------------------------------------------------------------------------------------------------------

    def _judge_turn(self, books: Books, winner: Asked, other: Asked, waiting: list[Asked]) -> None:
        """`winner` got a place that `other`, one of the `waiting`, could have had."""
        promise(not other.leases, "{} had a place and was passed over for {}", other, winner)
        level, level_of_other = self._highest_level(winner.claim.lane, waiting), self._level(other)
        promise(level_of_other >= level, "{} was passed over for {}, which is less urgent", other, winner)
        if level_of_other > level:
            return
        share, others_share = winner.claim.share, other.claim.share
        if share == others_share:
            is_alike = (winner.claim.client, winner.claim.lane) == (other.claim.client, other.claim.lane)
            promise(not is_alike or other.number > winner.number, "{} was passed over for {}, which came later", other, winner)
            return
        held, held_by_other = (books.of_share[winner.model_id, each] for each in (share, others_share))
        promise(held <= held_by_other, "{} was passed over for {}, whose client holds more places", other, winner)
        again = held == held_by_other and share in other.passed_by
        promise(not again, "{} was passed over for {}, the second of that client", other, winner)

    def _level(self, asked: Asked) -> int:
        """How urgent it is, the smaller the more, for how long it has waited itself."""
        return _level_after(asked.claim.lane, self._clock.now - asked.at - EPSILON_SECONDS)

    def _highest_level(self, lane: Lane, waiting: list[Asked]) -> int:
        """How urgent a lane is at most: whoever has waited in it for longest lifts it."""
        since = next(one.at for one in waiting if one.claim.lane is lane)
        return _level_after(lane, self._clock.now - since + EPSILON_SECONDS)


def _level_after(lane: Lane, waited_seconds: float) -> int:
    return max(0, _URGENCY[lane] - int(max(0.0, waited_seconds) / limits.LANE_AGEING_SECONDS))
