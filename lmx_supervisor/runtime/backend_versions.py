"""Which version of a backend a worker that starts now will have, told from what is installed, without importing it."""

from importlib.metadata import PackageNotFoundError, version

from lmx_protocol.states import BackendName

_SCRIPTED = "1"


def installed_version(backend: str) -> str | None:
    """In the words that workers use for themselves; None where the backend is not installed, or not known."""
    try:
        match backend:
            case BackendName.LLAMACPP:
                return version("llama-cpp-python")
            case BackendName.MLX:
                return f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"
            case BackendName.SCRIPTED:
                return _SCRIPTED
    except PackageNotFoundError:
        return None
    return None
