"""Who is next: of those who may have a place now, the one with the best claim; and who goes when too many wait. Pure.

On one model the first is, in this order: who had a place and lost it with its worker; who is in the more urgent lane, where
every `LANE_AGEING_SECONDS` that somebody waits in a lane lift it by one; who holds the fewest of the model's places; whose last
turn on it, then on any model, is the longest ago; who came first. Where a limit is over all models, the first ones of them are
compared alike, by the places they hold and the turns they had anywhere.
"""

from collections.abc import Callable, Iterable, Iterator

from lmx_protocol import limits
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.ledger import Entry
from lmx_supervisor.core.line import Line
from lmx_supervisor.core.places import Places
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState

_RANKS = {lane: rank for rank, lane in enumerate(Lane)}

Standing = tuple[int, ...]
"""The smaller, the better the claim."""


def next_in_line(state: FleetState, places: Places, now: float) -> Entry | None:
    """The request that is to be leased now, or None."""
    firsts = (_first_of(state, slot, places, now) for slot in state.slots.values() if slot.waiting)

    def by_turn(entry: Entry) -> Standing:
        share = entry.claim.share
        return places.of_share(share), state.turns.last_of(share, entry.turn_anywhere)

    return _best([entry for entry in firsts if entry is not None], by_turn, now)


def _first_of(state: FleetState, slot: Slot, places: Places, now: float) -> Entry | None:
    incarnation = state.incarnation_of(slot)
    if slot.state not in SERVING or slot.yields_to is not None or incarnation is None or not incarnation.takes_work:
        return None

    def by_turn(entry: Entry) -> Standing:
        share = entry.claim.share
        turns = slot.turns.last_of(share, entry.turn), state.turns.last_of(share, entry.turn_anywhere)
        return places.of_share_on(share, slot.model_id), *turns

    return _best(list(_candidates(state, slot, places)), by_turn, now)


def _best(candidates: list[Entry], by_turn: Callable[[Entry], Standing], now: float) -> Entry | None:
    """The one with the best claim, or None where there is nobody.

    A lane as a whole is lifted by who has waited in it for longest: lifted one by one, the old requests of a client that sent
    many would go before the new one of a client that sent one.
    """
    since: dict[Lane, float] = {}
    for entry in candidates:
        since[entry.claim.lane] = min(entry.arrived_at, since.get(entry.claim.lane, entry.arrived_at))
    ranks = {lane: _rank(lane, now - arrived_at) for lane, arrived_at in since.items()}

    def standing(entry: Entry) -> Standing:
        return not entry.replays, ranks[entry.claim.lane], *by_turn(entry), entry.arrival

    return min(candidates, key=standing, default=None)


def _rank(lane: Lane, waited_seconds: float) -> int:
    return max(0, _RANKS[lane] - int(waited_seconds / limits.LANE_AGEING_SECONDS))


def _candidates(state: FleetState, slot: Slot, places: Places) -> Iterator[Entry]:
    """The first of every group that no limit stops. One trial at a time, and trials hold up nobody else."""
    has_room = {kind: places.has_room(state, slot, takes_a_place=kind) for kind in (True, False)}
    if not any(has_room.values()):
        return
    running = (state.ledger.get(request_id) for request_id in slot.running)
    trial_is_on = any(entry is not None and entry.on_trial for entry in running)
    for group, members in slot.waiting.groups:
        if not has_room[group.takes_a_place]:
            continue
        first = next((entry for entry in members if not (trial_is_on and entry.on_trial)), None)
        if first is not None and places.may_have_more(state.policy, first):
            yield first


def who_gives_way(lines: Iterable[Line], newcomer: Entry) -> Entry:
    """Who has to go now that too many wait: the last comer of the client with the most waiting, of its least urgent lane.

    It is the newcomer unless another client has more waiting than the newcomer's: nobody fills a line before others come.
    """
    waiting: dict[str, list[Entry]] = {}
    for line in lines:
        for entry in line.entries:
            # A replayed one had its place already.
            if not entry.replays:
                waiting.setdefault(entry.claim.share, []).append(entry)
    own = waiting[newcomer.claim.share]
    longest = max(waiting.values(), key=len)
    candidates = longest if len(longest) > len(own) else [newcomer]
    return max(candidates, key=lambda entry: (_RANKS[entry.claim.lane], entry.arrival))
