"""The loop: take an event, ask the core, perform its actions, feed the results back as events.

Everything runs on one asyncio loop, so the core needs no lock; no action blocks. Waiting callers hold futures that an action
settles.
"""

import asyncio
import itertools
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import zmq.asyncio

from lmx_protocol import limits
from lmx_protocol.messages import AnyRequest, Begin, Credit, ModelSpec
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.claims import NO_CLAIM, Claim
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.lasting import Lasting, lasting
from lmx_supervisor.core.load_profile import UNTUNED, ProfileLayers
from lmx_supervisor.core.memory_need import MemoryNeed
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOutcome, UnloadOutcome
from lmx_supervisor.core.snapshot import fleet_view, memory_view
from lmx_supervisor.core.stop_reason import StopReason
from lmx_supervisor.core.trial import Trial
from lmx_supervisor.core.views import FleetView, MemoryView
from lmx_supervisor.runtime.answers import UNWATCHED, AnswerWatch, CreditExceededError, OpenAnswer
from lmx_supervisor.runtime.host_reading import host_reading
from lmx_supervisor.runtime.link import KeyPair
from lmx_supervisor.runtime.memory_return import MemoryProbe, missing_until_back
from lmx_supervisor.runtime.own_autopsy import own_autopsy
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError
from lmx_supervisor.runtime.witness import Witness
from lmx_supervisor.runtime.worker_outputs import WorkerOutputs
from lmx_supervisor.runtime.worker_process import WorkerProcess, WorkerTiming

log = logging.getLogger("lmx.supervisor")

OutcomeType = TypeVar("OutcomeType", LoadOutcome, UnloadOutcome, tuple[str, ...])
Outcome = LoadOutcome | UnloadOutcome | tuple[str, ...]
"""What an order ends with; the tuple: the models released from quarantine."""


class Supervisor:
    """The fleet in the real world. Create it on a running loop; end it with `drain`."""

    def __init__(self, policy: Policy, timing: WorkerTiming, run_dir: RunDir, memory_probe: MemoryProbe | None = None) -> None:
        self._fleet = Fleet(boot_id=run_dir.path.name, policy=policy)
        self._timing = timing
        self._witness = Witness()
        self._run_dir = run_dir
        self._keys, self._context = KeyPair.fresh(), zmq.asyncio.Context()
        self._processes: dict[str, WorkerProcess] = {}
        self._answers: dict[str, OpenAnswer] = {}
        self._memory_probe = memory_probe or MemoryProbe()
        self._available_bytes = self._memory_probe.available_bytes()
        self._memory_checks: set[asyncio.Task[None]] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._leases: dict[str, str] = {}
        self.outputs = WorkerOutputs()
        self._orders: dict[str, asyncio.Future[Outcome]] = {}
        self._order_numbers = itertools.count(1)
        self._inbox: deque[e.Event] = deque()
        self._coroners: list[Callable[[a.Autopsy], None]] = []
        self._listeners: list[Callable[[a.Tell], None]] = []
        self._handling = False
        self._failures: list[float] = []
        self._started_at = time.monotonic()
        self.on_prefetch: Callable[[str], None] = lambda _: None
        """Told which model is likely to be wanted next: find it and `load` it `unasked`."""
        self.unsound = asyncio.Event()
        """Set when our own decisions failed so often that the process should be replaced."""
        self._all_stopped = asyncio.Event()
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        self.loop_lag_seconds = 0.0
        self.loop_lag_max_seconds = 0.0
        self._performers: dict[type[a.Action], Callable[..., None]] = {
            a.Spawn: self._spawn,
            a.Send: self._send,
            a.Signal: self._signal,
            a.Deliver: self._deliver,
            a.LoadSettled: self._load_settled,
            a.UnloadSettled: self._unload_settled,
            a.QuarantineSettled: lambda action: self._settle(action.order_id, action.model_ids),
            a.OrderRefused: self._order_refused,
            a.Tell: self._tell,
            a.VerifyMemory: self._verify_memory,
            a.Autopsy: self._autopsy,
            a.Prefetch: lambda action: self.on_prefetch(action.model_id),
            a.AllStopped: lambda _: self._all_stopped.set(),
        }
        self._read_host()

    # --- what others may ask ----------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The numbers that the core decides by; a new one is in force with the next event."""
        return self._fleet.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._fleet.policy = policy

    def view(self) -> FleetView:
        """All workers at this moment."""
        return fleet_view(self._fleet.state, time.monotonic(), time.time())

    def memory(self) -> MemoryView:
        """The host's memory as it is shared out at this moment."""
        return memory_view(self._fleet.state)

    @property
    def is_shedding(self) -> bool:
        """Whether the host is so full that requests are refused."""
        return self._fleet.state.shedding

    def submit(self, request: AnyRequest, claim: Claim = NO_CLAIM, watch: AnswerWatch = UNWATCHED) -> OpenAnswer:
        """Queue a request; `claim` decides over its turn, and `watch` is told what happens to it."""
        answer = OpenAnswer(request.request_id, on_cancel=self._cancel, on_credit=self._grant, watch=watch)
        self._answers[request.request_id] = answer
        self.post(e.RequestArrived(request, claim))
        return answer

    def lasting(self) -> Lasting:
        """What of the fleet outlives this process."""
        return lasting(self._fleet.state)

    async def load(
        self,
        spec: ModelSpec,
        backend: str,
        *,
        digest: str = "",
        at_start: bool = False,
        unasked: bool = False,
        replaces: bool = False,
        trial: Trial | None = None,
        force: bool = False,
        size_bytes: int = 0,
        need: MemoryNeed | None = None,
        keep_alive_seconds: float | None = None,
        profile: ProfileLayers = UNTUNED,
    ) -> LoadOutcome:
        """Have a model served; several callers share one load. Raises `Refusal`."""
        self._read_host()
        wanted = partial(
            e.LoadWanted,
            spec=spec,
            backend=backend,
            digest=digest,
            at_start=at_start,
            force=force,
            size_bytes=size_bytes,
            need=need,
            keep_alive_seconds=keep_alive_seconds,
            profile=profile,
            replaces=replaces,
            trial=trial,
        )
        return await self._ordered(lambda order: e.PrefetchWanted(wanted(order)) if unasked else wanted(order), LoadOutcome)

    def demand(self, load: e.LoadWanted) -> None:
        """A request for a model that is not loaded is about to be submitted; `load` says how it would be loaded."""
        self._read_host()
        self.post(e.Demanded(load))

    async def restart(self, model_id: str) -> LoadOutcome:
        """Replace a served model's worker by a fresh one, after its running requests. Raises `Refusal`."""
        return await self._ordered(lambda order: e.RestartWanted(order, model_id), LoadOutcome)

    async def clear_quarantine(self, model_id: str | None) -> tuple[str, ...]:
        """Release one model, or all (None); returns which. Raises `Refusal` when that one is not quarantined."""
        return await self._ordered(lambda order: e.QuarantineClearWanted(order, model_id), tuple)

    async def unload(self, model_id: str, reason: StopReason = StopReason.MANUAL) -> UnloadOutcome:
        """Drain and stop a model. Raises `Refusal`."""
        return await self._ordered(lambda order: e.UnloadWanted(order, model_id, reason), UnloadOutcome)

    def shorten_drain(self, seconds: float) -> None:
        """Start draining, or allow a drain under way only this much more time."""
        self.post(e.DrainWanted(seconds))

    async def drain(self, seconds: float) -> None:
        """End everything: requests within `seconds`, then the workers. Returns when no process of ours is left."""
        self.shorten_drain(seconds)
        await self._all_stopped.wait()
        self.outputs.end()
        self._ticker.cancel()
        for check in self._memory_checks:
            check.cancel()
        await asyncio.gather(*self._burials)
        self._context.destroy(linger=limits.ZMQ_LINGER_MILLISECONDS)

    def on_autopsy(self, listener: Callable[[a.Autopsy], None]) -> None:
        """Call `listener` with every death that was not asked for, on the loop. It must not raise and not block."""
        self._coroners.append(listener)

    def subscribe(self, listener: Callable[[a.Tell], None]) -> None:
        """Call `listener` with everything operators are told, in order, on the loop. It must not raise and not block."""
        self._listeners.append(listener)

    def tell(self, kind: str, *, alarming: bool = False, **fields: object) -> None:
        """Tell operators something that did not come from the core: logged and handed to the listeners like the rest."""
        self._tell(a.Tell(kind, fields, alarming))

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def post(self, event: e.Event) -> None:
        """Handle an event now, or right after the one being handled."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._handling = False

    def _handle(self, event: e.Event) -> None:
        try:
            decided = self._fleet.handle(event, time.monotonic())
        except Exception:
            decided, story = self._fleet.contain(event)
            self._failed("core_failed", event, story)
        for action in decided:
            try:
                self._performers[type(action)](action)
            except Exception as error:
                self._failed("action_failed", action, [])
                self._contain_action(action, error)

    def _failed(self, kind: str, about: e.Event | a.Action, story: list[str]) -> None:
        """A bug of ours: logged with its story. Several in a row mean that the state cannot be trusted any more."""
        log.exception(kind, extra={"about": type(about).__name__, "story": story})
        now = time.monotonic()
        self._failures = [at for at in self._failures if now - at < limits.CORE_FAILURES_WINDOW_SECONDS] + [now]
        if len(self._failures) == limits.CORE_FAILURES_MAX:
            uptime_seconds = now - self._started_at
            self._autopsy(own_autopsy(self._run_dir.path.name, uptime_seconds, traceback.format_exc(), story))
            self.unsound.set()

    def _contain_action(self, action: a.Action, error: Exception) -> None:
        """What an action was for does not happen: its worker is not trusted any further, its request ends."""
        if isinstance(action, a.Spawn):
            self.post(e.SpawnFailed(action.incarnation, str(error)))
        elif isinstance(action, a.Send | a.Signal):
            self.post(e.Misbehaved(action.incarnation, f"{type(action).__name__} failed: {error}"))
        elif isinstance(action, a.Deliver):
            self.post(e.RequestCancelled(action.event.request_id))

    async def _tick(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + limits.LOOP_TICK_SECONDS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            self.loop_lag_seconds = max(0.0, time.monotonic() - due)
            self.loop_lag_max_seconds = max(self.loop_lag_max_seconds, self.loop_lag_seconds)
            reading = self._read_host()
            self.post(e.Tick())
            if reading is not None and not self._memory_checks:
                self._available_bytes = reading.available_bytes

    # --- performing actions -------------------------------------------------------------------------------------------------

    def _spawn(self, action: a.Spawn) -> None:
        name = action.incarnation
        try:
            process = WorkerProcess(
                name,
                action.backend,
                context=self._context,
                run_dir=self._run_dir,
                own_keys=self._keys,
                timing=self._timing,
                witness=self._witness,
                outputs=self.outputs,
                on_message=lambda message: self.post(e.Said(name, message)),
                on_violation=lambda detail: self.post(e.Misbehaved(name, detail)),
                on_files_changed=lambda detail: self.post(e.FilesChanged(name, detail)),
                on_exit=lambda observation: self._exited(name, observation),
            )
        except (OSError, RunDirError) as error:
            self.post(e.SpawnFailed(name, str(error)))
            return
        self._processes[name] = process
        self.post(e.Spawned(name, process.pid))

    def _exited(self, name: str, observation: ExitObservation) -> None:
        burial = self._processes.pop(name).burial
        assert burial is not None
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
        # What it held must not be taken for somebody else's.
        self._read_host()
        self.post(e.Exited(name, observation))

    def _send(self, action: a.Send) -> None:
        if isinstance(action.message, Begin):
            request_id = action.message.request.request_id
            answer = self._answers.get(request_id)
            # A canary has none, and no delivery would ever end its lease.
            if answer is not None:
                self._leases[request_id] = action.incarnation
                answer.leased(action.message.credit_frames, action.message.credit_bytes)
        process = self._processes.get(action.incarnation)
        if process is not None:
            process.send(action.message)

    def _signal(self, action: a.Signal) -> None:
        process = self._processes.get(action.incarnation)
        if process is not None:
            process.signal(action.signal)

    def _deliver(self, action: a.Deliver) -> None:
        answer = self._answers.get(action.event.request_id)
        if answer is None:
            return
        try:
            answer.deliver(action.event)
        except CreditExceededError as error:
            self.post(e.Misbehaved(self._leases[action.event.request_id], str(error)))
            return
        if answer.ended:
            del self._answers[action.event.request_id]
            self._leases.pop(action.event.request_id, None)

    def _load_settled(self, action: a.LoadSettled) -> None:
        outcome = LoadOutcome(
            model_id=action.model_id, already=action.already, footprint_bytes=action.footprint_bytes, seconds=action.seconds
        )
        self._settle(action.order_id, outcome)

    def _unload_settled(self, action: a.UnloadSettled) -> None:
        self._settle(action.order_id, UnloadOutcome(model_id=action.model_id, freed_bytes=action.freed_bytes))

    def _settle(self, order_id: str, outcome: Outcome) -> None:
        if not (settled := self._orders.pop(order_id)).done():
            settled.set_result(outcome)

    def _order_refused(self, action: a.OrderRefused) -> None:
        if not (settled := self._orders.pop(action.order_id)).done():
            settled.set_exception(Refusal(action.code, action.message, retry_after_seconds=action.retry_after_seconds))

    def _verify_memory(self, action: a.VerifyMemory) -> None:
        check = asyncio.get_running_loop().create_task(self._check_memory(action))
        self._memory_checks.add(check)
        check.add_done_callback(self._memory_checks.discard)

    async def _check_memory(self, action: a.VerifyMemory) -> None:
        async for missing in missing_until_back(self._memory_probe, action.owed_bytes, self._available_bytes):
            self._read_host()
            self.post(e.MemoryChecked(action.incarnation, missing, self._memory_probe.available_bytes()))

    def _autopsy(self, action: a.Autopsy) -> None:
        for coroner in self._coroners:
            coroner(action)

    def _tell(self, action: a.Tell) -> None:
        level = logging.WARNING if action.alarming else logging.INFO
        log.log(level, action.kind, extra=action.fields)
        for listener in self._listeners:
            listener(action)

    def _read_host(self) -> e.HostMemoryRead | None:
        """Tell the core how much memory there is, and which part of that reading is our workers'."""
        reading = host_reading(self._memory_probe, {name: process.pid for name, process in self._processes.items()})
        if reading is not None:
            self.post(reading)
        return reading

    # --- small helpers ------------------------------------------------------------------------------------------------------

    async def _ordered(self, event: Callable[[str], e.Event], kind: type[OutcomeType]) -> OutcomeType:
        """What an order, posted with an id of its own, ends with. Raises `Refusal`."""
        order_id, settled = self._new_order()
        self.post(event(order_id))
        outcome = await settled
        assert isinstance(outcome, kind)
        return outcome

    def _new_order(self) -> "tuple[str, asyncio.Future[Outcome]]":
        order_id = f"order-{next(self._order_numbers)}"
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        # The caller may have gone away by the time its order is refused; that is no unhandled error.
        settled.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._orders[order_id] = settled
        return order_id, settled

    def _cancel(self, request_id: str) -> None:
        self.post(e.RequestCancelled(request_id))

    def _grant(self, credit: Credit) -> None:
        incarnation = self._leases.get(credit.request_id)
        if incarnation is not None:
            self._send(a.Send(incarnation, credit))
