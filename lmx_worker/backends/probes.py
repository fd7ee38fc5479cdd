"""Opening a model without its weights, by backend. Only the named one is imported, and what it stands on must be already."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import BackendName


@dataclass(frozen=True, slots=True)
class ProbedModel:
    """What a model's files say of it, in the eyes of a backend."""

    architecture: str
    train_context_length: int
    vocabulary_size: int


Prober = Callable[[ModelSpec], ProbedModel]
"""Raises `LoadError` for a model that the backend could not load."""

_MODULES: dict[str, str] = {
    BackendName.LLAMACPP: "lmx_worker.backends.llamacpp.probing",
    BackendName.MLX: "lmx_worker.backends.mlx.probing",
    BackendName.SCRIPTED: "lmx_worker.backends.scripted.probing",
}


def prober_of(backend: str) -> Prober:
    """The prober of a backend of that name. Raises `KeyError` for one that is not registered."""
    prober: Prober = import_module(_MODULES[backend]).probe
    return prober
