"""The fleet as readers see it, built on demand from the state."""

from collections.abc import Sequence

from lmx_supervisor.core.budget import is_counted, sums
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.health import is_suspect
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.places import most_altogether, most_of_model
from lmx_supervisor.core.readiness import readiness_of
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.views import ExitView, FleetView, LaneView, LoadProgressView, MemoryView, SpareView, WorkerView


def fleet_view(state: FleetState, now: float, unix_now: float) -> FleetView:
    """Every slot and spare. `unix_now` is the wall clock at monotonic `now`, so that views carry both kinds of time."""
    workers = tuple(_worker_view(state, slot, now, unix_now) for slot in state.slots.values())
    spares = (incarnation for incarnation in state.incarnations.values() if incarnation.model_id is None)
    return FleetView(
        workers=workers,
        spares=tuple(
            SpareView(backend=spare.backend, incarnation=spare.name, pid=spare.pid, warm=spare.imported_at is not None)
            for spare in spares
        ),
        requests_in_flight=sum(worker.requests_active for worker in workers),
        requests_waiting=sum(worker.requests_waiting for worker in workers),
        draining=state.draining,
        concurrent_limit=most_altogether(state),
        lanes=_together(workers),
    )


def memory_view(state: FleetState) -> MemoryView:
    """The budget at this moment."""
    budget = sums(state)
    if state.host is None or budget is None:
        return MemoryView()
    return MemoryView(
        total_bytes=state.host.total_bytes,
        available_bytes=state.host.available_bytes,
        limit_bytes=budget.limit,
        reserved_bytes=sum(budget.workers.values()),
        others_bytes=budget.others + budget.processes,
        free_bytes=max(0, budget.free),
        shedding=state.shedding,
    )


def _worker_view(state: FleetState, slot: Slot, now: float, unix_now: float) -> WorkerView:
    def unix(at: float | None) -> float | None:
        return None if at is None else unix_now - (now - at)

    incarnation = state.incarnation_of(slot)
    running = _running_by_lane(state, slot)
    waiting = slot.waiting.by_lane()
    return WorkerView(
        model_id=slot.model_id,
        path=slot.spec.path,
        format=slot.spec.format,
        backend=slot.backend,
        incarnation=slot.incarnation,
        pid=incarnation.pid if incarnation else None,
        state=slot.state,
        readiness=readiness_of(slot),
        wanted=slot.wanted,
        state_since_unix_seconds=unix_now - (now - slot.state_since),
        loaded_at_unix_seconds=unix(slot.ready_at),
        last_used_at_unix_seconds=unix(slot.last_used_at),
        uptime_seconds=now - slot.ready_at if slot.ready_at is not None else 0.0,
        restarts=slot.restarts,
        consecutive_failures=slot.failures.consecutive,
        restart_in_seconds=max(0.0, slot.restart_at - now) if slot.state == "backoff" else None,
        load_seconds=slot.load_seconds,
        load_progress=_progress_view(slot),
        footprint_bytes=incarnation.footprint_bytes if incarnation else None,
        peak_footprint_bytes=incarnation.peak_footprint_bytes if incarnation else None,
        tokens_per_second=incarnation.tokens_per_second if incarnation else 0.0,
        prefill_tokens_per_second=incarnation.prefill_tokens_per_second if incarnation else 0.0,
        requests_active=sum(running.values()),
        requests_waiting=len(slot.waiting),
        threads=incarnation.grant.threads if incarnation and incarnation.grant else None,
        prefill_ratio=incarnation.grant.prefill_ratio if incarnation and incarnation.grant else 1.0,
        concurrent_limit=most_of_model(state, slot) if slot.state in SERVING else 0,
        places_held_back=slot.adaptive.held_back,
        latency_p95_seconds=slot.adaptive.latency_p95_seconds,
        lanes={lane: LaneView(running=running[lane], waiting=waiting[lane]) for lane in Lane},
        requests_total=slot.requests_total,
        tokens_total=slot.tokens_total,
        reserved_bytes=slot.claimed_bytes if is_counted(slot) else 0,
        keep_alive_seconds=slot.keep_alive_seconds,
        evicted_for=slot.evicted_for,
        # One that is only about to be asked for may be forgotten again before somebody who reads this has asked.
        keeps_its_line=slot.keeps_its_line and bool(slot.waiting or not slot.is_demanded),
        on_demand=slot.on_demand or slot.is_demanded,
        waits_because=slot.waits_because if slot.is_demanded and slot.waits_because else None,
        yields_to=slot.yields_to,
        prefetched=slot.prefetched,
        heartbeat_age_seconds=_heartbeat_age_seconds(incarnation, now),
        suspect=incarnation is not None and is_suspect(incarnation, slot, now, state.policy),
        last_exit=_exit_view(slot, now, unix_now),
        facts=slot.facts,
        unloaded=slot.unloaded,
        performance=slot.performance,
        profile=slot.profile,
    )


def _running_by_lane(state: FleetState, slot: Slot) -> dict[Lane, int]:
    """The clients' requests that a worker has; not its canary."""
    counted = dict.fromkeys(Lane, 0)
    for request_id in slot.running:
        entry = state.ledger.get(request_id)
        if entry is not None and not entry.internal:
            counted[entry.claim.lane] += 1
    return counted


def _together(workers: Sequence[WorkerView]) -> dict[Lane, LaneView]:
    def of_all(lane: Lane) -> LaneView:
        views = [worker.lanes[lane] for worker in workers]
        return LaneView(running=sum(view.running for view in views), waiting=sum(view.waiting for view in views))

    return {lane: of_all(lane) for lane in Lane}


def _heartbeat_age_seconds(incarnation: Incarnation | None, now: float) -> float | None:
    if incarnation is None or incarnation.hello_at is None:
        return None
    return max(0.0, now - incarnation.last_beat_at)


def _progress_view(slot: Slot) -> LoadProgressView | None:
    progress = slot.load_progress
    if progress is None:
        return None
    return LoadProgressView(phase=progress.phase, done=progress.done, total=progress.total, unit=progress.unit)


def _exit_view(slot: Slot, now: float, unix_now: float) -> ExitView | None:
    if slot.last_exit is None:
        return None
    at_unix_seconds = unix_now - (now - slot.last_exit_at)
    return ExitView(
        reason=slot.last_exit.reason,
        text=slot.last_exit.text,
        at_unix_seconds=at_unix_seconds,
        crash_id=slot.last_exit.crash_id,
    )
