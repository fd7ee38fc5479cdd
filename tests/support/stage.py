"""A stage for the pure core: events go in by short names, actions and deliveries are kept for assertions, the clock is ours."""

from typing import Any, TypeVar

from lmx_protocol.messages import (
    Beat,
    CountRequest,
    Finished,
    FromWorker,
    GenerateRequest,
    Hello,
    Imported,
    Load,
    Loaded,
    ModelFacts,
    ModelSpec,
    StepEvents,
    Text,
    ToWorker,
    Usage,
)
from lmx_protocol.states import ComputeSharing, FinishReason, ModelFormat, ModelTask, WorkerPhase, WorkerState
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.claims import Claim
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.ledger import is_terminal
from lmx_supervisor.core.memory_need import MemoryNeed
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import Slot

T = TypeVar("T")


def spec(model_id: str = "m", slots: int = 2) -> ModelSpec:
    """A model to load."""
    return ModelSpec(model_id=model_id, path=f"/models/{model_id}.gguf", format=ModelFormat.GGUF, slots=slots)


def facts(
    slots: int = 2,
    tasks: tuple[ModelTask, ...] = (ModelTask.GENERATE,),
    sharing: ComputeSharing = ComputeSharing.NOTHING,
) -> ModelFacts:
    """What a worker learned."""
    return ModelFacts(
        backend="llamacpp",
        backend_version="1",
        architecture="llama",
        context_length=4096,
        train_context_length=4096,
        vocabulary_size=100,
        parameters=1,
        weights_bytes=1,
        slots=slots,
        has_chat_template=True,
        tasks=tasks,
        sharing=sharing,
    )


class Stage:
    """A fleet without a world."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.fleet = Fleet("boot", policy or Policy(warm_spare=False))
        self.now = 1000.0
        self.actions: list[a.Action] = []
        self._pids = 0
        self._orders = 0

    # --- events ---------------------------------------------------------------------------------------------------------

    def do(self, event: e.Event) -> list[a.Action]:
        """Handle an event; spawns get a pid at once."""
        new = self.fleet.handle(event, self.now)
        self.actions += new
        for action in list(new):
            if isinstance(action, a.Spawn):
                self._pids += 1
                new += self.do(e.Spawned(action.incarnation, self._pids))
        return new

    def load(
        self,
        model_id: str = "m",
        *,
        at_start: bool = False,
        backend: str = "llamacpp",
        slots: int = 2,
        digest: str = "1",
        force: bool = False,
        needs_bytes: int | None = None,
        keep_alive_seconds: float | None = None,
    ) -> str:
        """Order a load; returns the order id."""
        self._orders += 1
        order = e.LoadWanted(
            f"load-{self._orders}",
            spec(model_id, slots),
            backend,
            digest,
            at_start=at_start,
            force=force,
            need=None if needs_bytes is None else MemoryNeed(weights_bytes=needs_bytes, kv_bytes=0, working_bytes=0),
            keep_alive_seconds=keep_alive_seconds,
        )
        self.do(order)
        return order.order_id

    def demand(self, model_id: str = "m", needs_bytes: int | None = None, digest: str = "1") -> None:
        """A request for a model that is not loaded is about to come."""
        need = None if needs_bytes is None else MemoryNeed(weights_bytes=needs_bytes, kv_bytes=0, working_bytes=0)
        self.do(e.Demanded(e.LoadWanted("", spec(model_id), "llamacpp", digest, need=need)))

    def prefetch(self, model_id: str = "m", needs_bytes: int | None = None) -> str:
        """A model that is likely to be wanted next was found; returns the order id."""
        self._orders += 1
        need = None if needs_bytes is None else MemoryNeed(weights_bytes=needs_bytes, kv_bytes=0, working_bytes=0)
        order = e.LoadWanted(f"prefetch-{self._orders}", spec(model_id), "llamacpp", "1", need=need)
        self.do(e.PrefetchWanted(order))
        return order.order_id

    def host(self, total_bytes: int, used_bytes: int = 0, **resident_bytes: int) -> None:
        """The host's memory is read; of what is used, so much belongs to the workers of these models."""
        resident = {self.incarnation(model_id): size for model_id, size in resident_bytes.items()}
        self.do(e.HostMemoryRead(total_bytes, total_bytes - used_bytes, resident))

    def unload(self, model_id: str = "m") -> str:
        """Order an unload; returns the order id."""
        self._orders += 1
        self.do(e.UnloadWanted(f"unload-{self._orders}", model_id))
        return f"unload-{self._orders}"

    def say(self, message: FromWorker, model_id: str = "m") -> list[a.Action]:
        """The worker of a model says something."""
        return self.do(e.Said(self.incarnation(model_id), message))

    def hello(self, model_id: str = "m", protocol: int = PROTOCOL_VERSION) -> None:
        """The worker of a model reports for duty."""
        name = self.incarnation(model_id)
        self.say(Hello(protocol=protocol, incarnation=name, pid=1, backend="llamacpp"), model_id)

    def loaded(
        self, model_id: str = "m", footprint_bytes: int = 1000, sharing: ComputeSharing = ComputeSharing.NOTHING
    ) -> None:
        """The worker of a model has its weights."""
        learned = facts(self.slot(model_id).spec.slots, sharing=sharing)
        self.say(Loaded(facts=learned, seconds=0.1, footprint_bytes=footprint_bytes), model_id)

    def canary(self, model_id: str = "m", tokens: int = 2) -> None:
        """The canary of a model ends well."""
        self.finish(f"canary-{self.incarnation(model_id)}", model_id, seq=0, tokens=tokens)

    def ready(self, model_id: str = "m", **load: Any) -> None:
        """Bring a model from nothing to READY."""
        self.load(model_id, **load)
        self.come_up(model_id)

    def come_up(self, model_id: str = "m") -> None:
        """Bring the current incarnation of a model to READY."""
        if self.slot(model_id).state is WorkerState.SPAWNING:
            self.hello(model_id)
        self.loaded(model_id)
        self.canary(model_id)

    def beat(
        self, model_id: str = "m", steps: int = 1, footprint_bytes: int = 1000, *, prefilled: int = 0, decoded: int = 0
    ) -> None:
        """A heartbeat."""
        beat = Beat(
            seq=1,
            phase=WorkerPhase.IDLE,
            steps=steps,
            tokens_prefilled=prefilled,
            tokens_decoded=decoded,
            active=0,
            waiting=0,
            footprint_bytes=footprint_bytes,
        )
        self.say(beat, model_id)

    def imported(self, incarnation: str) -> None:
        """A worker that is not in a slot says hello and has its libraries."""
        self.do(e.Said(incarnation, Hello(protocol=PROTOCOL_VERSION, incarnation=incarnation, pid=1, backend="llamacpp")))
        self.do(e.Said(incarnation, Imported(backend_version="1", seconds=0.1)))

    def ask(self, request_id: str, model_id: str = "m", prompt: str | None = None, **claim: Any) -> None:
        """A client asks; by default no two requests are the same."""
        request = GenerateRequest(request_id=request_id, model_id=model_id, prompt=prompt or f"prompt of {request_id}")
        self.do(e.RequestArrived(request, Claim(**claim)))

    def ask_for_count(self, request_id: str, model_id: str = "m") -> None:
        """A client asks how long a prompt is."""
        prompt = GenerateRequest(request_id=request_id, model_id=model_id, prompt=f"prompt of {request_id}")
        self.do(e.RequestArrived(CountRequest(request_id=request_id, model_id=model_id, of=prompt)))

    def text(self, request_id: str, seq: int, model_id: str = "m", text: str = "x") -> list[a.Action]:
        """The worker streams a piece."""
        return self.say(StepEvents(events=(Text(request_id=request_id, seq=seq, text=text),)), model_id)

    def finish(self, request_id: str, model_id: str = "m", *, seq: int, tokens: int = 1) -> None:
        """The worker ends a request well."""
        usage = Usage(prompt_tokens=1, completion_tokens=tokens)
        end = Finished(request_id=request_id, seq=seq, reason=FinishReason.STOP, usage=usage)
        self.say(StepEvents(events=(end,)), model_id)

    def die(self, model_id: str = "m", *, signal: int | None = 9, code: int | None = None, stderr: str = "") -> list[a.Action]:
        """The worker of a model is gone."""
        seen = ExitObservation(code=code, signal_number=None if code is not None else signal, stderr_tail=stderr)
        return self.do(e.Exited(self.incarnation(model_id), seen))

    def tick(self, seconds: float = 0.0) -> list[a.Action]:
        """Time passes in the steps a real ticker would take."""
        until = self.now + seconds
        new: list[a.Action] = []
        while True:
            new += self.do(e.Tick())
            if self.now >= until:
                return new
            self.now = min(until, self.now + 1.0)

    # --- looking --------------------------------------------------------------------------------------------------------

    def slot(self, model_id: str = "m") -> Slot:
        """The slot of a model."""
        return self.fleet.state.slots[model_id]

    def state(self, model_id: str = "m") -> WorkerState:
        """The state of a model's slot."""
        return self.slot(model_id).state

    def incarnation(self, model_id: str = "m") -> str:
        """The process of a model's slot."""
        name = self.slot(model_id).incarnation
        assert name is not None
        return name

    def of(self, kind: type[T]) -> list[T]:
        """The actions of one kind, so far."""
        return [action for action in self.actions if isinstance(action, kind)]

    def sent(self, kind: type[T]) -> list[T]:
        """The messages of one kind sent to workers, so far."""
        messages: list[ToWorker] = [action.message for action in self.of(a.Send)]
        return [message for message in messages if isinstance(message, kind)]

    def signals(self) -> list[a.WorkerSignal]:
        """The signals sent, so far."""
        return [action.signal for action in self.of(a.Signal)]

    def ends(self, request_id: str) -> list[Any]:
        """The terminal events delivered for a request."""
        return [d.event for d in self.of(a.Deliver) if d.event.request_id == request_id and is_terminal(d.event)]

    def told(self, kind: str) -> list[dict[str, object]]:
        """What operators were told of one kind."""
        return [tell.fields for tell in self.of(a.Tell) if tell.kind == kind]

    def refusal(self, order_id: str) -> a.OrderRefused:
        """The refusal of an order."""
        return next(action for action in self.of(a.OrderRefused) if action.order_id == order_id)

    def loads(self) -> int:
        """How many Load messages were sent."""
        return len(self.sent(Load))
