"""The people of a simulated day: clients who ask, come in bursts and leave; operators who load, unload, restart and release."""

import itertools

import msgspec

from lmx_protocol.messages import GenerateRequest, ModelSpec
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import ExitReason, Verdict
from tests.sim.job import POISON, REFUSED
from tests.sim.scenario import dice_of_callers
from tests.sim.world import World

_MISSING = (WorkerState.FAILED, WorkerState.QUARANTINED)
_CARE_SHARE = 0.7
_PROMPTS = 12
_BURST = 6
_ORDERS = ("load",) * 6 + ("unload",) * 2 + ("restart",) * 2 + ("clear",)


class People:
    """Clients and operators, until they go home."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._dice_of_callers = dice_of_callers(world.scenario.seed)
        self.at_home = False
        self._request_numbers = itertools.count(1)
        self._order_numbers = itertools.count(1)

    def begin(self) -> None:
        """The day begins: quarantines of yesterday are known, models are loaded, people come."""
        world, scenario = self._world, self._world.scenario
        if scenario.quarantined_before:
            verdict = Verdict(ExitReason.NATIVE_CRASH, "it crashed yesterday")
            world.post(e.QuarantineKnown(scenario.models[0], scenario.backends[0], "1", "crash_loop:3", 3, verdict))
        for spec in scenario.models:
            at_start = scenario.lone_poison or self._rng.random() < 0.7
            world.post(e.LoadWanted(self._new_order(), spec, scenario.backends[0], "1", at_start=at_start, size_bytes=1 << 30))
        self._ask_later()
        if not scenario.lone_poison:
            self._order_later()
        self._sleep_later()
        world.agenda.after(scenario.busy_seconds, self.go_home)

    def go_home(self) -> None:
        """Nobody asks, orders or closes the lid any more."""
        self.at_home = True

    # --- clients ------------------------------------------------------------------------------------------------------------

    def _ask_later(self) -> None:
        mean_seconds = self._world.scenario.ask_every_seconds
        self._world.agenda.after(self._rng.expovariate(1 / mean_seconds), self._ask)

    def _ask(self) -> None:
        if self.at_home:
            return
        count = _BURST if self._rng.random() < self._world.scenario.burst_share else 1
        prompt = self._prompt()
        for _ in range(count):
            self._ask_for(prompt if self._rng.random() < 0.5 else self._prompt())
        self._ask_later()

    def _ask_for(self, prompt: str) -> None:
        world, rng = self._world, self._rng
        models = [spec.model_id for spec in world.scenario.models]
        poisonous = world.scenario.lone_poison and prompt.startswith(POISON)
        model_id = models[0] if poisonous else rng.choice([*models, "ghost"] if rng.random() < 0.05 else models)
        request = GenerateRequest(request_id=f"r{next(self._request_numbers)}", model_id=model_id, prompt=prompt)
        world.post_when_awake(e.RequestArrived(request, world.scenario.callers.next_claim(self._dice_of_callers)))
        if rng.random() < world.scenario.cancel_share:
            leave_after = rng.choice((0.0, 0.3, 1.0, 5.0))
            world.agenda.after(leave_after, lambda: world.post_when_awake(e.RequestCancelled(request.request_id)))

    def _prompt(self) -> str:
        rng, scenario = self._rng, self._world.scenario
        if rng.random() < scenario.poison_share:
            return POISON if scenario.lone_poison else f"{POISON} {rng.randrange(3)}"
        if rng.random() < 0.05:
            return REFUSED
        return f"prompt {rng.randrange(_PROMPTS)}"

    # --- operators ----------------------------------------------------------------------------------------------------------

    def _order_later(self) -> None:
        mean_seconds = self._world.scenario.order_every_seconds
        self._world.agenda.after(self._rng.expovariate(1 / mean_seconds), self._order)

    def _order(self) -> None:
        if self.at_home:
            return
        world, rng = self._world, self._rng
        spec, order_id = self._model_to_care_for(), self._new_order()
        kind = rng.choice(_ORDERS)
        if kind == "load":
            changed = rng.random() < 0.1
            backend = world.scenario.backends[rng.random() < 0.1]
            digest = f"{order_id}" if changed else "1"
            spec = msgspec.structs.replace(spec, slots=rng.choice((1, 2, 4))) if changed else spec
            world.post_when_awake(
                e.LoadWanted(
                    order_id, spec, backend, digest, at_start=rng.random() < 0.2, force=rng.random() < 0.2, size_bytes=1 << 30
                )
            )
        elif kind == "unload":
            world.post_when_awake(e.UnloadWanted(order_id, spec.model_id))
        elif kind == "restart":
            world.post_when_awake(e.RestartWanted(order_id, spec.model_id))
        else:
            world.post_when_awake(e.QuarantineClearWanted(order_id, spec.model_id if rng.random() < 0.7 else None))
        self._order_later()

    def _model_to_care_for(self) -> ModelSpec:
        """Operators look after models that are not there more than after others."""
        slots = self._world.fleet.state.slots
        models = self._world.scenario.models
        missing = [spec for spec in models if spec.model_id not in slots or slots[spec.model_id].state in _MISSING]
        return self._rng.choice(missing if missing and self._rng.random() < _CARE_SHARE else models)

    def _new_order(self) -> str:
        return f"o{next(self._order_numbers)}"

    # --- the lid of the laptop ------------------------------------------------------------------------------------------------

    def _sleep_later(self) -> None:
        mean_seconds = self._world.scenario.sleep_every_seconds
        self._world.agenda.after(self._rng.expovariate(1 / mean_seconds), self._sleep)

    def _sleep(self) -> None:
        if self.at_home:
            return
        seconds = self._rng.choice((2.0, 6.0, 20.0, 3600.0))
        if self._rng.random() < 0.5:
            self._world.sleep_machine(seconds)
        else:
            self._world.pause_supervisor(min(seconds, 60.0))
        self._sleep_later()
