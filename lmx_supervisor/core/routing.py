"""Which model a name means: an id, an alias, or `auto`. Pure: names and a view of the fleet in, a decision out.

In order: the id of a model that is served; `auto`; an alias; else the name itself, for the fleet to refuse. Served is what
answers, or would after a wait that a request may have. Among several the first that answers now is taken, and of those that
cannot do what is asked for (a model that only embeds, for a chat) none while there is another. What the caller may not use is
not there for `auto` and aliases; an id means what it means, and is refused elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmx_protocol.states import ModelTask, WorkerState
from lmx_supervisor.config.names import AUTO
from lmx_supervisor.core.slot import COMING, SERVING
from lmx_supervisor.core.views import FleetView, WorkerView

Aliases = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a request may be sent to."""

    model_id: str
    answers_now: bool
    """False: it is loading or restarting, and a request for it waits."""
    tasks: tuple[ModelTask, ...] | None
    """What it can do; None: that is not known before it has loaded."""

    def can(self, task: ModelTask) -> bool:
        """Whether it may be able to do this."""
        return self.tasks is None or task in self.tasks


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    model_id: str
    """The name itself where it means nothing else."""
    unserved: tuple[str, ...] | None = None
    """The name is `auto` or an alias, and nothing it stands for is served: what would be."""
    forbidden: bool = False
    """The name is an alias, and the caller may use nothing that it stands for."""


def everything(_: str) -> bool:
    """What most callers may use."""
    return True


def route(
    name: str,
    aliases: Aliases,
    default_model: str | None,
    served: Sequence[Served],
    task: ModelTask = ModelTask.GENERATE,
    *,
    may_use: Callable[[str], bool] = everything,
) -> Route:
    """The model that `name` means for a request of this kind, by a caller who may use these models."""
    known = {model.model_id: model for model in served}
    if name in known:
        return Route(name)
    if name == AUTO:
        wanted = [*([default_model] if default_model is not None else []), *sorted(known)]
    elif name in aliases:
        wanted = list(aliases[name])
    else:
        return Route(name)
    usable = [model_id for model_id in wanted if may_use(model_id)]
    chosen = _first([known[model_id] for model_id in usable if model_id in known], task)
    if chosen is not None:
        return Route(chosen.model_id)
    forbidden = name != AUTO and bool(wanted) and not usable
    return Route(name, unserved=tuple(dict.fromkeys(usable)), forbidden=forbidden)


def _first(models: Sequence[Served], task: ModelTask) -> Served | None:
    able = [model for model in models if model.can(task)] or models
    return next((model for model in able if model.answers_now), able[0] if able else None)


def served_models(fleet: FleetView, *, wait_seconds: float) -> tuple[Served, ...]:
    """What a request may be sent to; one waits for at most `wait_seconds`."""
    return tuple(
        Served(worker.model_id, worker.state in SERVING, worker.facts.tasks if worker.facts is not None else None)
        for worker in fleet.workers
        if worker.state in SERVING or _is_coming(worker, wait_seconds)
    )


def _is_coming(worker: WorkerView, wait_seconds: float) -> bool:
    if worker.state is WorkerState.BACKOFF:
        return (worker.restart_in_seconds or 0.0) <= wait_seconds
    return worker.state in COMING or worker.keeps_its_line


def merged(aliases: Aliases, further: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Aliases with further models, each at the end of its alias's list."""
    lists = {alias: list(models) for alias, models in aliases.items()}
    for alias, model_id in further:
        lists.setdefault(alias, []).append(model_id)
    return {alias: tuple(dict.fromkeys(models)) for alias, models in lists.items()}
