"""From the name in a request to the model that answers it: the one place of the gateway that resolves names.

What a name means is decided in `core.routing`; here is where it gets its view of the fleet, and where names that lead nowhere
are refused with what to do next. Every dialect sends the result's `model_id` on, and answers with it.
"""

from collections.abc import Sequence

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelFacts
from lmx_protocol.states import ModelTask, WorkerState
from lmx_supervisor.config.names import AUTO, PRESET_PREFIX
from lmx_supervisor.core.load_profile import GenerationDefaults, defaults_over
from lmx_supervisor.core.presets import Preset, PresetBook
from lmx_supervisor.core.routing import Aliases, merged, route, served_models
from lmx_supervisor.core.service import Service
from lmx_supervisor.core.views import FleetView
from lmx_supervisor.gateway.callers import Caller
from lmx_supervisor.gateway.demand import demand
from lmx_supervisor.gateway.dialects.openai_inbound import not_supported, required
from lmx_supervisor.gateway.problem import EdgeCode, Problem

_NAMED_MAX = 8


class ChosenModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is answered by."""

    model_id: str
    facts: ModelFacts | None = None
    """What is known of the model, where it has been loaded."""
    defaults: GenerationDefaults = GenerationDefaults()
    """For what the client leaves out."""
    system_prompt: str = ""
    """For a conversation that has none."""

    @property
    def context_length(self) -> int | None:
        """In tokens; None when it is not known."""
        return self.facts.context_length if self.facts is not None else None

    @property
    def has_template_arguments(self) -> bool:
        """Whether its chat template can be told anything, as far as is known."""
        return self.facts is None or "template_arguments" not in self.facts.unsupported_fields

    @property
    def vocabulary_size(self) -> int:
        """In tokens; 0 when it is not known."""
        return self.facts.vocabulary_size if self.facts is not None else 0


class ModelChoice:
    """Resolves names for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def choose(self, name: str | None, caller: Caller, task: ModelTask = ModelTask.GENERATE) -> ChosenModel:
        """The model for a caller's request that names `name`, or none. Raises `Problem` (400, 403, 404) where it leads nowhere.

        A name that stands for several models means one of those the caller may use. Whether it may use a model that it asked
        for by its id is checked where the request is submitted.
        """
        config, fleet = self._service.config, self._service.fleet()
        name = name if name is not None else config.models.default_model
        if name is None:
            raise required("model")
        preset = self._preset(name, task)
        if preset is not None:
            name = preset.model
        served = served_models(fleet, wait_seconds=config.models.semaphore_timeout_sec)
        aliases, default = aliases_of(self._service), config.routing.default_model
        found = route(name, aliases, default, served, task, may_use=caller.may_use)
        if found.forbidden:
            raise _forbidden(name)
        model_id, is_served = found.model_id, any(found.model_id == each.model_id for each in served)
        if not is_served and not fleet.draining:
            asked = found.unserved if found.unserved is not None else (model_id,)
            demanded = await demand(self._service, asked, caller, is_list=found.unserved is not None)
            if demanded is not None:
                model_id, fleet = demanded, self._service.fleet()
            elif found.unserved is not None:
                raise _unserved(name, found.unserved, fleet, caller)
        worker, defaults = fleet.worker(model_id), fleet.defaults(model_id)
        return ChosenModel(
            model_id=model_id,
            facts=worker.facts if worker is not None else None,
            defaults=defaults_over(preset.parameters, defaults) if preset is not None else defaults,
            system_prompt=preset.system_prompt if preset is not None else "",
        )

    def _preset(self, name: str, task: ModelTask) -> Preset | None:
        """The preset that a name means; None when it is the name of something else."""
        if not name.startswith(PRESET_PREFIX):
            return None
        book, of = self._service.presets, name.removeprefix(PRESET_PREFIX)
        preset = book.find(of)
        if preset is None:
            raise unknown_preset(of, book)
        if task is not ModelTask.GENERATE:
            raise not_supported("model", f"a preset says how text is generated; name its model, '{preset.model}', instead.")
        return preset


def aliases_of(service: Service) -> Aliases:
    """The aliases in force: those of the configuration, then what presets add to them."""
    return merged(service.config.routing.aliases, service.presets.routes())


def unknown_preset(name: str, book: PresetBook, *, param: str = "model") -> Problem:
    """There is no preset of that name; which there are."""
    known = ", ".join(f"{PRESET_PREFIX}{each}" for each in book.names()[:_NAMED_MAX])
    more = f" and {len(book) - _NAMED_MAX} more" if len(book) > _NAMED_MAX else ""
    there_are = f"known are {known}{more}" if known else "there are none"
    shown = f"{PRESET_PREFIX}{name[: limits.PRESET_NAME_CHARACTERS_MAX]}"
    return Problem(ErrorCode.MODEL_NOT_FOUND, f"There is no preset '{shown}'; {there_are}.", param=param)


def _forbidden(name: str) -> Problem:
    """None of the models of an alias is for this caller; which they are is not either."""
    message = f"This key may use none of the models that '{name}' stands for; GET /v1/models lists those it may."
    return Problem(EdgeCode.MODEL_NOT_ALLOWED, message, param="model")


def _unserved(name: str, models: Sequence[str], fleet: FleetView, caller: Caller) -> Problem:
    """Nothing that `auto` or an alias stands for is served: what would be, and how to get there."""
    how = "`lmx load MODEL` or POST /admin/models/load; `lmx ls` lists what is here"
    if not models:
        which = "No model" if caller.models is None else "No model that this key may use"
        what = f"{which} is loaded" if name == AUTO else f"No model has the id '{name}', and as an alias it stands for none"
        into = "" if name == AUTO else f", or list models for it in routing.aliases.{name}"
        return Problem(ErrorCode.MODEL_NOT_FOUND, f"{what}. Load one with {how}{into}.", param="model")
    named = ", ".join(_with_state(model_id, fleet) for model_id in models[:_NAMED_MAX])
    more = f" and {len(models) - _NAMED_MAX} more" if len(models) > _NAMED_MAX else ""
    message = f"No model that '{name}' stands for is loaded: {named}{more}. Load one of them with {how}."
    return Problem(ErrorCode.MODEL_NOT_FOUND, message, param="model")


def _with_state(model_id: str, fleet: FleetView) -> str:
    worker = fleet.worker(model_id)
    is_quarantined = worker is not None and worker.state is WorkerState.QUARANTINED
    return f"'{model_id}' (quarantined)" if is_quarantined else f"'{model_id}'"
