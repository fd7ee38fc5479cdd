"""The rooms and their arrows, read off the imports of every module, and what the supervisor's process never loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmx_supervisor

ROOT = Path(lmx_supervisor.__file__).parent.parent
PACKAGES = ("lmx_protocol", "lmx_worker", "lmx_supervisor")
MODEL_LIBRARIES = {"mlx", "mlx_lm", "llama_cpp", "numpy", "torch", "transformers"}

FORBIDDEN = {
    # Room: what none of its modules may import, whether in a function, for type checking only, or at the top.
    "lmx_worker": {"lmx_supervisor", "multiprocessing"},
    "lmx_worker.text": {"lmx_worker.backends.llamacpp", "lmx_worker.backends.mlx", *MODEL_LIBRARIES},
    "lmx_supervisor": {"lmx_worker", "multiprocessing", "llguidance", *MODEL_LIBRARIES},
    "lmx_supervisor.core": {"asyncio", "logging", "os", "random", "socket", "subprocess", "threading", "time", "zmq",
                            "lmx_supervisor.catalog", "lmx_supervisor.cli", "lmx_supervisor.gateway", "lmx_supervisor.observe",
                            "lmx_supervisor.runtime"},
    "lmx_supervisor.config": {"lmx_supervisor.catalog", "lmx_supervisor.cli", "lmx_supervisor.core", "lmx_supervisor.gateway",
                              "lmx_supervisor.observe", "lmx_supervisor.runtime", "zmq", "starlette"},
    "lmx_supervisor.catalog": {"lmx_supervisor.cli", "lmx_supervisor.gateway", "zmq", "starlette"},
    "lmx_supervisor.observe": {"lmx_supervisor.catalog", "lmx_supervisor.cli", "lmx_supervisor.gateway",
                               "lmx_supervisor.runtime", "zmq", "starlette"},
    "lmx_supervisor.runtime": {"starlette", "hypercorn", "lmx_supervisor.gateway", "lmx_supervisor.cli"},
    "lmx_supervisor.gateway": {"zmq", "subprocess", "psutil", "lmx_supervisor.runtime", "lmx_supervisor.catalog",
                               "lmx_supervisor.cli"},
}  # fmt: skip

CATALOG_MAY_USE_OF_RUNTIME = {"lmx_supervisor.runtime.atomic_file"}
"""Writing a file safely is no business of processes; only that one module is shared."""


def modules_of(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package, by its dotted name."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it; `from a import b` counts as `a` and as `a.b`."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return imported


def is_in(module: str, room: str) -> bool:
    """Whether a dotted name is the room or lies in it."""
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_what_it_must_not(room: str) -> None:
    """Every arrow of the design holds in every module of the room."""
    modules = [(name, path) for name, path in modules_of(room.split(".")[0]) if is_in(name, room)]
    assert modules, f"{room} has no modules: the rule watches nothing"
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules
        for imported in sorted(imports_of(path))
        if any(is_in(imported, forbidden) for forbidden in FORBIDDEN[room])
    ]
    assert wrong == []


def test_the_protocol_stands_on_msgspec_alone() -> None:
    """Both sides share it, so it may bring in nothing but the standard library and msgspec."""
    allowed = {"lmx_protocol", "msgspec", *sys.stdlib_module_names}
    wrong = {
        f"{name} imports {imported}"
        for name, path in modules_of("lmx_protocol")
        for imported in imports_of(path)
        if imported.split(".")[0] not in allowed
    }
    assert wrong == set()


def test_the_catalog_takes_one_module_of_the_runtime() -> None:
    """The catalog writes files as safely as the runtime does, and knows nothing else of it."""
    used = {
        imported
        for _, path in modules_of("lmx_supervisor/catalog")
        for imported in imports_of(path)
        if is_in(imported, "lmx_supervisor.runtime")
    }
    assert all(any(is_in(module, allowed) for allowed in CATALOG_MAY_USE_OF_RUNTIME) for module in used), used


def test_model_libraries_are_imported_by_backends_only() -> None:
    """The worker's shell must be able to say why a backend's library does not work, so it cannot stand on one itself."""
    wrong = {
        f"{name} imports {imported}"
        for name, path in modules_of("lmx_worker")
        for imported in imports_of(path)
        if imported.split(".")[0] in MODEL_LIBRARIES and not is_in(name, "lmx_worker.backends")
    }
    assert wrong == set()


def test_the_hub_is_talked_to_by_jobs_only() -> None:
    """The hub's client uses the network, which nobody but a job may."""
    wrong = {
        f"{name} imports {imported}"
        for package in PACKAGES
        for name, path in modules_of(package)
        for imported in imports_of(path)
        if imported.split(".")[0] in ("huggingface_hub", "hf_xet") and not is_in(name, "lmx_worker.jobs")
    }
    assert wrong == set()


def test_the_supervisor_never_loads_a_model_library() -> None:
    """A fresh process that imports every supervisor module has no model library, hub client or worker code in memory."""
    unwanted = sorted({*MODEL_LIBRARIES, "huggingface_hub", "lmx_worker", "multiprocessing.pool"})
    names = [name for name, _ in modules_of("lmx_supervisor") if not name.endswith("__main__")]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        f"print(*(name for name in {unwanted} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
