"""The predecessor's keys that have no meaning of their own here: what each is called now, or why it is not needed any more.

An old configuration file has to start the service, and its operator has to learn what became of it: every such key leaves a
remark, and one whose wish cannot be fulfilled stops the start like an unknown key. One fact has one key: these point at it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_supervisor.config.error import ConfigError


class Renamed(msgspec.Struct, frozen=True):
    """The value means the same under another name."""

    to: str


class Always(msgspec.Struct, frozen=True):
    """What LMX does anyhow: this value is fine, another cannot be had."""

    value: bool | int | str | None
    why: str


class Idle(msgspec.Struct, frozen=True):
    """Nothing depends on it here, whatever its value."""

    why: str


OldKey = Renamed | Always | Idle

_NO_MTLS = "LMX asks for no client certificates; a reverse proxy can"
_NO_HOOKS = "LMX asks no policy hooks"
_HOOK_KEYS = (
    "mode", "admin_sensitive_enabled", "skills_sensitive_enabled", "agents_sensitive_enabled", "require_account",
    "require_device", "required_capabilities", "account_id_header", "device_id_header", "capabilities_header",
)  # fmt: skip

OLD_KEYS: Mapping[str, OldKey] = {
    "server.workers": Always(1, "one process serves all clients, and every model has a process of its own"),
    "server.timeout_sec": Idle(f"idle connections are closed after {limits.KEEP_ALIVE_SECONDS:g} seconds"),
    "models.use_batching": Always(True, "requests are always batched; models.slots says how many are decoded together"),
    "models.loader_isolation_enabled": Always(True, "every model is loaded and served in a process of its own"),
    "models.loader_timeout_sec": Renamed("supervision.load_stall_seconds"),
    "models.warmup_on_load": Always(True, "a model is served only after it answered a first prompt"),
    "models.gguf_context_length": Renamed("models.context_length"),
    "models.gguf_gpu_layers": Renamed("models.gpu_layers"),
    "models.gguf_fallback_enabled": Always(False, "the format of a model's files decides which backend serves it"),
    # No predecessor's, but an early name of ours.
    "models.queue_wait_seconds": Renamed("models.semaphore_timeout_sec"),
    "models.embedding_model": Always(None, "a request names its model; models.auto_load loads one at start"),
    "security.mtls_mode": Always("off", _NO_MTLS),
    "security.mtls_client_subject_header": Idle(_NO_MTLS),
    "security.mtls_allowed_subjects": Idle(_NO_MTLS),
    "security.endpoint_policy_hooks.enabled": Always(False, _NO_HOOKS),
    **{f"security.endpoint_policy_hooks.{name}": Idle(_NO_HOOKS) for name in _HOOK_KEYS},
}  # fmt: skip

LATER_SECTIONS: Mapping[str, str] = {
    "helper_nodes": "LMX has no helper nodes yet; remove the section until it has",
    "rag": "LMX has no document store yet; remove the section until it has",
    "agents": "LMX has no agents yet; remove the section until it has",
    "skills": "LMX has no skills yet; remove the section until it has",
    "workers": "LMX has no skills yet, which these would work for; how models' workers are watched is in supervision",
    "stack_presets": "nothing in LMX depended on them; GET /admin/stack shows what routing.aliases lead to",
    "backends": "LMX starts the backends it needs itself; models on other machines come later",
    "observability": "LMX sends no traces; GET /admin/metrics has its measurements",
}
"""Sections of the predecessor whose features are not here."""


class Translated(msgspec.Struct, frozen=True):
    """A layer of values in today's names."""

    values: dict[str, Any]
    written_as: dict[str, str]
    """Dotted key → the old dotted key it was written as; for those that were."""
    remarks: tuple[str, ...]
    """What the operator should know, one sentence each."""


def translated(layer: Mapping[str, Any], source: str, written: Callable[[str], str]) -> Translated:
    """The values of one source without old names.

    Args:
        layer: dotted key → value, as `sources` reads them.
        source: what error messages call it.
        written: how a dotted key is written there.

    Raises:
        ConfigError: an old key asks for what cannot be had, or says what another key there says too.
    """
    values = {key: value for key, value in layer.items() if key not in OLD_KEYS}
    written_as: dict[str, str] = {}
    remarks: list[str] = []
    for key, value in layer.items():
        name = written(key)
        match OLD_KEYS.get(key):
            case Renamed(to=to):
                if to in values:
                    raise ConfigError(source, name, f"{written(to)} is there too and means the same; remove this one")
                values[to] = value
                written_as[to] = key
                remarks.append(f"{source}: {name} is called {written(to)} now, and was read as that")
            case Always(value=always, why=why):
                # YAML reads `off` as false.
                value = "off" if always == "off" and value is False else value
                if value != always or isinstance(value, bool) != isinstance(always, bool):
                    raise ConfigError(source, name, f"only {_spelled(always)} is possible: {why}; remove the key")
                remarks.append(f"{source}: {name} is not needed: {why}")
            case Idle(why=why):
                remarks.append(f"{source}: {name} has no effect: {why}")
            case None:
                pass
    return Translated(values, written_as, tuple(remarks))


def _spelled(value: bool | int | str | None) -> str:
    return msgspec.json.encode(value).decode()
