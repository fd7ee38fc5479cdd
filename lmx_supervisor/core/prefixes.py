"""Which stops leave the time to keep what a worker has computed, how much it may keep, and what operators hear of it. Pure.

A worker that is ended for a fault, or whose model has not served, leaves nothing behind: what it computed is not to be trusted.
"""

from lmx_protocol import limits
from lmx_protocol.messages import PrefixesDropped, PrefixesSaved, PrefixNews, PrefixRestored, Shutdown
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.exit_reason import KillCause
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.state import FleetState

PREFIXES_SAVED = "prefixes_saved"
PREFIX_RESTORED = "prefix_restored"
PREFIXES_DROPPED = "prefixes_dropped"


def shutdown_order(state: FleetState, incarnation: Incarnation, cause: KillCause, grace_seconds: float, now: float) -> Shutdown:
    """What a worker is told that has to leave."""
    if not _may_keep(state, incarnation, cause, now):
        return Shutdown(grace_seconds=grace_seconds)
    # All may be stopped at once: each gets its share, so that together they keep to the bound.
    sharers = sum(worker.model_id is not None for worker in state.incarnations.values())
    return Shutdown(
        grace_seconds=grace_seconds,
        prefix_bytes_max=state.policy.prefix_cache_bytes_max // max(1, sharers),
        prefix_seconds=min(limits.PREFIX_SAVE_SECONDS, grace_seconds * limits.PREFIX_SAVE_GRACE_RATIO),
    )


def told(model_id: str, news: PrefixNews) -> Tell:
    """What a worker says of its saved prefixes, for operators."""
    match news:
        case PrefixesSaved():
            fields = {"prefixes": news.prefixes, "kept": news.kept, "problem": news.problem or None}
            return _tell(PREFIXES_SAVED, model_id, news, **fields)
        case PrefixRestored():
            return _tell(PREFIX_RESTORED, model_id, news)
        case PrefixesDropped():
            return Tell(PREFIXES_DROPPED, {"model_id": model_id, "files": news.files, "reason": news.reason})


def _tell(kind: str, model_id: str, news: PrefixesSaved | PrefixRestored, **fields: object) -> Tell:
    seconds = round(news.seconds, 3)
    return Tell(kind, {"model_id": model_id, "tokens": news.tokens, "bytes": news.bytes, "seconds": seconds, **fields})


def _may_keep(state: FleetState, incarnation: Incarnation, cause: KillCause, now: float) -> bool:
    slot = state.slot_of(incarnation)
    if cause is not KillCause.STOP or slot is None or slot.ready_at is None or slot.quarantine_reason is not None:
        return False
    # The service has used up its time to stop: whoever waits for that may be about to kill it.
    is_late = state.draining and now >= slot.drain_until
    return not is_late
