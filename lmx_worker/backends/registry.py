"""Backends by name. Only the named one is imported: a worker carries no library it does not use."""

from importlib import import_module

from lmx_protocol.states import BackendName
from lmx_worker.backends.base import Backend

_FACTORIES: dict[str, tuple[str, str]] = {
    BackendName.LLAMACPP: ("lmx_worker.backends.llamacpp.embedding", "create_backend"),
    BackendName.MLX: ("lmx_worker.backends.mlx.embedding", "create_backend"),
    BackendName.SCRIPTED: ("lmx_worker.backends.scripted", "ScriptedBackend"),
}


def create_backend(name: str) -> Backend:
    """A fresh, unloaded backend. Raises `KeyError` for a name that is not registered."""
    module, attribute = _FACTORIES[name]
    backend = getattr(import_module(module), attribute)()
    assert isinstance(backend, Backend), f"{module}.{attribute} is no Backend"
    return backend
