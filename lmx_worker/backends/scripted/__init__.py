"""A backend whose models are small files that say what to emit and how to misbehave. The language: `script`."""

from lmx_worker.backends.scripted.backend import ScriptedBackend

__all__ = ["ScriptedBackend"]
