"""Bugs to plant in the core, each typical of what goes wrong in supervisors; the simulation must find every one of them."""

from collections.abc import Callable
from typing import Any

from lmx_protocol.messages import Finished, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.core import choosing, dying, places, restart_policy, serving
from lmx_supervisor.core.actions import Deliver
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.ledger import Entry
from lmx_supervisor.core.loading import Loading
from lmx_supervisor.core.places import Places
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.roster import Roster
from lmx_supervisor.core.serving import Serving
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.turns import Turns

Planter = Callable[[Any], None]
"""Plants the bug through a pytest monkeypatch."""


def _around(owner: Any, name: str, before: Callable[..., None]) -> Planter:
    """A bug that does something before a method."""
    real = getattr(owner, name)

    def bugged(self: Any, *args: Any, **kwargs: Any) -> Any:
        before(self, *args, **kwargs)
        return real(self, *args, **kwargs)

    return lambda monkeypatch: monkeypatch.setattr(owner, name, bugged)


def _instead(owner: Any, name: str, bugged: Callable[..., Any]) -> Planter:
    """A bug that does something instead of a method or function."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, bugged)


def _nothing(*_: Any, **__: Any) -> None:
    """A thing forgotten."""


def _forget_replays(serving: Serving, slot: Slot, incarnation: Incarnation, **_: Any) -> None:
    for entry in serving._state.ledger.of_incarnation(incarnation.name):
        entry.replays = 0


def _forget_text(serving: Serving, slot: Slot, incarnation: Incarnation, **_: Any) -> None:
    for entry in serving._state.ledger.of_incarnation(incarnation.name):
        entry.delivered_output = False


def _believe_any_seq(serving: Serving, slot: Slot, incarnation: Incarnation, message: Any, now: float) -> None:
    for event in message.events:
        entry = serving._state.ledger.get(event.request_id)
        if entry is not None:
            entry.next_seq = event.seq


def _climb_no_ladder(roster: Roster, incarnation: Incarnation, *_: Any) -> None:
    incarnation.ladder = None


def _accuse_the_innocent(serving: Serving, slot: Slot, incarnation: Incarnation, now: float) -> None:
    for entry in serving._state.ledger.of_incarnation(incarnation.name):
        entry.trial_until_tokens = 0


def _make_up_success(serving: Serving, request_id: str, *_: Any) -> None:
    end = Finished(request_id=request_id, reason=FinishReason.STOP, usage=Usage())
    serving._state.emit(Deliver(end))


def _end_twice(serving: Serving, request_id: str, code: Any, message: str, retry_after_seconds: int | None = None) -> None:
    _deliver_failed(serving, request_id, code, message, retry_after_seconds)
    _deliver_failed(serving, request_id, code, message, retry_after_seconds)


def _decide_late(history: Any, reason: Any, policy: Any, jitter_key: str) -> Any:
    forgiven = restart_policy.FailureHistory(history.consecutive - 1, history.at_seconds[1:])
    return _decide(forgiven, reason, policy, jitter_key)


def _settle_nobody(loading: Loading, slot: Slot, freed_bytes: int | None) -> None:
    slot.unload_orders.clear()


def _rank_by_lane_alone(lane: Lane, waited_seconds: float) -> int:
    return _rank(lane, 0.0)


def _only_the_first_of_all(state: FleetState, slot: Slot, taken: Places) -> Any:
    first = next(iter(slot.waiting.entries), None)
    return (entry for entry in _candidates(state, slot, taken) if entry is first)


def _key_may_have_another(taken: Places, policy: Policy, entry: Entry) -> bool:
    limit = entry.claim.key_limit
    return _may_have_more(taken, policy, entry) or (limit is not None and taken._of_key[entry.claim.key] == limit)


def _forget_why(real: Callable[..., None]) -> Callable[..., None]:
    def cancel_and_forget(serving: Serving, slot: Slot, now: float) -> None:
        real(serving, slot, now)
        for entry in serving._entries(slot.running):
            entry.too_late = None

    return cancel_and_forget


_deliver_failed = Serving._deliver_failed
_decide = restart_policy.decide
_capacity = Slot.capacity
_rank = choosing._rank
_candidates = choosing._candidates
_may_have_more = Places.may_have_more

MUTANTS: dict[str, tuple[Planter, str]] = {
    "a request is replayed without limit": (_around(Serving, "worker_lost", _forget_replays), "was leased 3 times"),
    "a request is replayed after its first text": (_around(Serving, "worker_lost", _forget_text), "after its first text"),
    "a doomed worker gets requests": (_instead(Incarnation, "takes_work", property(lambda _: True)), "doomed"),
    "a failure is told twice": (_instead(Serving, "_deliver_failed", _end_twice), "after its end"),
    "a success is made up": (_instead(Serving, "_deliver_failed", _make_up_success), "made up"),
    "a deadline in the line is forgotten": (_instead(Serving, "expire_waiting", _nothing), "has waited for"),
    "a hole in a stream passes": (_around(Serving, "step", _believe_any_seq), "where"),
    "sleep is held against workers": (_instead(FleetState, "postpone", _nothing), "without a reason"),
    "the last rung is forgotten": (_instead(Roster, "_kill", _nothing), "was not killed"),
    "a second ladder replaces the first": (_around(Roster, "end", _climb_no_ladder), "ladder"),
    "a restart does not wait": (_instead(restart_policy, "_delay_seconds", lambda *_: 0.0), "failures"),
    "quarantine comes one crash late": (_instead(dying, "decide", _decide_late), "due was"),
    "an unload is never answered": (_instead(Loading, "_settle_unloads", _settle_nobody), "without an answer"),
    "a worker gets one request too many": (_instead(Slot, "capacity", lambda slot: _capacity(slot) + 1), "more than"),
    "a trial shields nobody": (_around(Serving, "accuse", _accuse_the_innocent), "not on trial"),
    "the lines of clients are served in no turns": (_instead(Turns, "took", _nothing), "second of that client"),
    "lanes are all the same": (_instead(choosing, "_rank", lambda *_: 0), "less urgent"),
    "a lane never rises": (_instead(choosing, "_rank", _rank_by_lane_alone), "was passed over"),
    "who has much is given more": (_instead(Places, "of_share_on", lambda *_: 0), "more places"),
    "a client at its limit gets more": (_instead(places, "most_of_client", lambda *_: None), "its client may have"),
    "a key gets one place too many": (_instead(Places, "may_have_more", _key_may_have_another), "its key may have"),
    "who is at a limit holds up those behind": (_instead(choosing, "_candidates", _only_the_first_of_all), "could run"),
    "the newcomer goes whoever filled the line": (_instead(serving, "who_gives_way", lambda _, newcomer: newcomer), "crowded"),
    "a time limit is forgotten": (_instead(Entry, "ends_by", property(lambda _: None)), "time"),
    "what runs may take for ever": (_instead(Serving, "cancel_too_late", _nothing), "its time is over"),
    "who was too slow is told of a cancel": (
        _instead(Serving, "cancel_too_late", _forget_why(Serving.cancel_too_late)),
        "cancelled by nobody",
    ),
    "a spare is taken and kept": (_instead(Roster, "dismiss_unused_spares", _nothing), "processes are left"),
}
"""What is wrong, how it is planted, and a word of what the judge must say."""
