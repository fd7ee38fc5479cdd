"""The fleet's machine on a host that is too small: whatever loads, crashes, evictions and unloads interleave, memory adds up.

After every event: no load was let go beyond the budget, nobody was evicted who was busy, pinned or loading, nobody was evicted
in vain, and who was evicted for a load that failed is coming back. What is loaded on demand evicts nobody who has only just
begun to serve, keeps from its requests only who comes back for them, and does not wait for memory that is free.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from lmx_protocol.messages import Load
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import COMING, SERVING
from tests.machine.test_fleet_machine import FleetMachine, claims
from tests.support.stage import Stage

TOTAL = 100_000
LIMIT = 90_000
NEEDS = {"a": 50_000, "b": 40_000, "c": 20_000}
"""Two of them fit, all three do not; what a worker is said to cost is next to nothing, so its claim is what counts."""
RESIDENCY_SECONDS = 5.0
ON_DEMAND = ("a", "b")
ENDED = frozenset({WorkerState.STOPPED, WorkerState.FAILED, WorkerState.QUARANTINED})
models = st.sampled_from(tuple(NEEDS))


@dataclass(frozen=True)
class Before:
    """A model's slot before an event."""

    state: WorkerState
    has_requests: bool
    pinned: bool
    served_since: float | None
    prefetched: bool


class WatchedStage(Stage):
    """A stage that keeps its own books of the memory and compares them after every event."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.others = 0
        self.loading: dict[str, str] = {}
        """Incarnation → model, of the living workers that were told to load."""
        self.evicted: dict[str, str] = {}
        """Model → the one it made room for, while that has neither served nor failed."""

    def do(self, event: e.Event) -> list[a.Action]:
        """Handle an event and compare."""
        if isinstance(event, e.Exited):
            self.loading.pop(event.incarnation, None)
        elif isinstance(event, e.HostMemoryRead):
            self.others = event.total_bytes - event.available_bytes
        elif isinstance(event, e.UnloadWanted):
            self.evicted.pop(event.model_id, None)
        before = {
            slot.model_id: Before(
                slot.state, bool(slot.running or slot.waiting), slot.keep_alive_seconds == 0, slot.ready_at, slot.prefetched
            )
            for slot in self.fleet.state.slots.values()
        }
        new = super().do(event)
        self._check_claims(before)
        self._check_loads(new)
        self._check_evictions(new, before)
        self._check_returns(new)
        self._check_demands()
        return new

    def _promised(self) -> int:
        """What everybody holds who will be there when those that are leaving have left."""
        slots = self.fleet.state.slots.values()
        # One that waits for its restart and was denied its memory holds nothing meanwhile.
        stays = [slot for slot in slots if slot.state in COMING | SERVING and slot.claimed_bytes]
        returns = [slot for slot in slots if slot.state is WorkerState.DRAINING and slot.returns]
        return sum(NEEDS[slot.model_id] for slot in stays + returns) + self.others

    def _check_claims(self, before: dict[str, Before]) -> None:
        for slot in self.fleet.state.slots.values():
            was = before.get(slot.model_id)
            starts = slot.state is WorkerState.SPAWNING and (was is None or was.state is not WorkerState.SPAWNING)
            assert not starts or self._promised() <= LIMIT, f"{slot} claimed memory that is promised already"

    def _check_loads(self, new: list[a.Action]) -> None:
        for action in new:
            if isinstance(action, a.Send) and isinstance(action.message, Load):
                self.loading[action.incarnation] = action.message.model.model_id
                held = sum(NEEDS[model_id] for model_id in self.loading.values())
                assert held + self.others <= LIMIT, f"{sorted(self.loading.values())} beside {self.others}"

    def _check_evictions(self, new: list[a.Action], before: dict[str, Before]) -> None:
        victims: dict[str, list[str]] = {}
        for action in new:
            if isinstance(action, a.Tell) and action.kind in ("model_evicted", "model_ttl_evicted"):
                victim = str(action.fields["model_id"])
                was = before[victim]
                if action.fields.get("cause") == "on_demand":
                    self._check_room_made_on_demand(victim, was)
                else:
                    assert was.state is WorkerState.READY and not was.has_requests and not was.pinned, f"{victim} was {was}"
                if action.kind == "model_evicted":
                    victims.setdefault(str(action.fields["for_model_id"]), []).append(victim)
                    self.evicted[victim] = str(action.fields["for_model_id"])
        for beneficiary, evicted in victims.items():
            slots = self.fleet.state.slots
            assert slots[beneficiary].state in COMING, f"{evicted} were evicted for {slots[beneficiary]}"
            promised = self._promised()
            for victim in evicted:
                assert promised + NEEDS[victim] > LIMIT, f"{victim} was evicted for {beneficiary} in vain"

    def _check_room_made_on_demand(self, victim: str, was: Before) -> None:
        slot = self.fleet.state.slots[victim]
        assert was.state in SERVING or was.prefetched, f"{victim} was {was}"
        assert not was.pinned and not slot.running, f"{victim} was {was}, and is {slot}"
        assert was.prefetched or self.now - was.served_since >= RESIDENCY_SECONDS, f"{victim} has served since {was}"
        assert not slot.waiting or (victim in ON_DEMAND and slot.is_demanded), f"{victim} leaves those who wait for it"

    def _check_demands(self) -> None:
        """The one that is waited for longest is loaded when it fits; a door is closed for somebody."""
        slots = self.fleet.state.slots.values()
        asked = [slot for slot in slots if slot.is_demanded and slot.waiting]
        for slot in slots:
            assert slot.yields_to is None or slot.yields_to in {each.model_id for each in asked}, f"{slot} yields to nobody"
        open_to_all = [slot for slot in asked if slot.state is WorkerState.STOPPED and slot.evicted_for is None]
        if open_to_all and self.others <= LIMIT:
            first = min(open_to_all, key=lambda slot: min(entry.arrived_at for entry in slot.waiting.entries))
            assert self._promised() + NEEDS[first.model_id] > LIMIT, f"{first} waits for memory that is free"

    def _check_returns(self, new: list[a.Action]) -> None:
        told = [(action.kind, action.fields.get("model_id")) for action in new if isinstance(action, a.Tell)]
        slots = self.fleet.state.slots
        for victim, beneficiary in list(self.evicted.items()):
            slot = slots.get(victim)
            settled = ("model_loaded", beneficiary) in told or self.fleet.state.draining
            is_back = slot is not None and slot.state in COMING | SERVING
            failed = beneficiary not in slots or slots[beneficiary].state in ENDED
            if settled or is_back or failed:
                del self.evicted[victim]
            if failed and not settled and not is_back:
                leaving = slot is not None and slot.state is WorkerState.DRAINING and slot.returns
                assert leaving or ("load_refused", victim) in told, f"{victim} made room for {beneficiary} and stays away"


class MemoryMachine(FleetMachine):
    """One supervisor's life on a small host."""

    @initialize(spare=st.booleans())
    def begin(self, spare: bool) -> None:
        policy = Policy(
            warm_spare=spare,
            queue_per_model=3,
            queue_total=4,
            drain_seconds=5.0,
            ttl_enabled=True,
            ttl_seconds=100.0,
            ttl_check_interval_seconds=10.0,
            warm_pool_enabled=True,
            warm_pool_size=1,
            load_on_demand=True,
            on_demand_models=ON_DEMAND,
            least_residency_seconds=RESIDENCY_SECONDS,
        )
        self.stage = WatchedStage(policy)
        self.stage.host(TOTAL)
        self.asked = set()
        self.orders = set()
        self.seen = 0
        self.ended = set()

    @rule(model=models, at_start=st.booleans(), digest=st.sampled_from("12"), force=st.booleans())
    def load(self, model: str, at_start: bool, digest: str, force: bool) -> None:
        need = NEEDS[model]
        self.orders.add(self.stage.load(model, at_start=at_start, digest=digest, force=force, needs_bytes=need))

    @rule(model=models, keep_alive_seconds=st.sampled_from([0.0, 30.0]))
    def load_for_a_while(self, model: str, keep_alive_seconds: float) -> None:
        order = self.stage.load(model, keep_alive_seconds=keep_alive_seconds, needs_bytes=NEEDS[model])
        self.orders.add(order)

    @rule(model=models, keep_alive_seconds=st.sampled_from([None, None, 0.0]))
    def serve(self, model: str, keep_alive_seconds: float | None) -> None:
        """A load goes all the way to its canary, if it may; whoever is asked to leave meanwhile leaves."""
        order = self.stage.load(model, keep_alive_seconds=keep_alive_seconds, needs_bytes=NEEDS[model])
        self.orders.add(order)
        for _ in range(3):
            self.everybody_leaves()
            self.progress(model)

    @rule(model=models, prompt=st.sampled_from("xyz"), claim=claims)
    def ask_on_demand(self, model: str, prompt: str, claim: dict[str, Any]) -> None:
        """A request for a model that is looked up first, if need be."""
        self.stage.demand(model, NEEDS[model])
        self.ask(model, prompt, claim)

    @rule(order=st.permutations(tuple(NEEDS)))
    def take_turns(self, order: list[str]) -> None:
        """Clients ask for one model after the other, each when the one before has served for a while."""
        for model in order:
            self.ask_on_demand(model, "x", {})
            self.all_goes_well(6)

    @rule(seconds=st.sampled_from([2, 6]))
    def all_goes_well(self, seconds: int) -> None:
        """For a while every worker does what it should and none falls silent; requests that run go on."""
        for _ in range(seconds):
            self.everybody_leaves()
            for model in NEEDS:
                self.progress(model)
                slot = self._slot_with_process(model)
                if slot is not None and slot.state in SERVING:
                    self.stage.beat(model)
            self.stage.tick(1.0)

    @rule(model=models)
    def prefetch(self, model: str) -> None:
        """A model is loaded unasked: for that nobody leaves."""
        evicted = len(self.stage.told("model_evicted"))
        self.orders.add(self.stage.prefetch(model, NEEDS[model]))
        assert evicted == len(self.stage.told("model_evicted"))
        assert sum(slot.prefetched for slot in self.stage.fleet.state.slots.values()) <= 1

    @rule()
    def everybody_leaves(self) -> None:
        """Workers that were asked to leave do."""
        for incarnation in list(self.stage.fleet.state.incarnations.values()):
            if incarnation.ladder is not None:
                self.stage.do(e.Exited(incarnation.name, ExitObservation(code=0)))

    @rule(model=models)
    def a_request_ends(self, model: str) -> None:
        """The worker of a model ends its oldest request."""
        self.answer(model, end=True)

    @rule(others=st.sampled_from([0, 0, 0, 10_000, 30_000, 60_000]))
    def others_take_memory(self, others: int) -> None:
        self.stage.host(TOTAL, others)


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
