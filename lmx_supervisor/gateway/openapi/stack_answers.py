"""What the routes about names, presets and the machine answer, as structs for the OpenAPI document."""

from typing import Any, Literal

from lmx_supervisor.core.load_profile import GenerationDefaults
from lmx_supervisor.gateway.openapi.inference_answers import Answer


class RoleOut(Answer, frozen=True, kw_only=True):
    """An alias: the models it stands for, and the one a request for it goes to now."""

    preferences: list[str]
    resolved_model: str | None
    loaded: bool


class BackendInUse(Answer, frozen=True, kw_only=True):
    """A backend: the models on it, and its workers that wait for the next one."""

    models: list[str]
    warm_spares: int


class StackOut(Answer, frozen=True, kw_only=True):
    """Which model answers to which name."""

    roles: dict[str, RoleOut]
    helper_nodes: dict[str, Any]
    loaded_models: list[str]
    default_model: str | None
    backends: dict[str, BackendInUse]
    stack_presets: dict[str, Any]


class HardwareOut(Answer, frozen=True, kw_only=True):
    """What the machine is; null where the system does not tell."""

    hostname: str
    chip_name: str | None
    architecture: str
    memory_gb: float | None
    max_working_set_gb: float | None
    cpu_cores: int | None
    metal_available: bool
    gpu_family: str | None


class IdentityOut(Answer, frozen=True, kw_only=True):
    """What the machine is called and for, as the configuration says."""

    name: str
    purpose: str
    role: str


class DeviceOut(Answer, frozen=True, kw_only=True):
    """This machine."""

    hardware: HardwareOut
    identity: IdentityOut


class WarmPoolOut(Answer, frozen=True, kw_only=True):
    """Models that are loaded before anybody asks."""

    enabled: bool
    size: int
    unused: list[str]
    """Those that nobody has used yet."""


class PredictorOut(Answer, frozen=True, kw_only=True):
    """Which models were wanted lately, and which is likely to be next."""

    total_accesses: int
    unique_models: int
    history_size: int
    top_models: list[tuple[str, int]]
    transition_count: int
    predicted_next: str | None
    warm_pool: WarmPoolOut


class PresetOut(Answer, frozen=True, kw_only=True):
    """A model together with how it is asked and loaded."""

    name: str
    description: str
    model: str
    parameters: GenerationDefaults
    system_prompt: str | None
    routing_alias: str | None
    auto_load: bool
    performance: dict[str, Any]
    chat_template: None


class PresetsOut(Answer, frozen=True, kw_only=True):
    """The presets in force, by name."""

    presets: list[PresetOut]
    count: int


class PresetsReloaded(Answer, frozen=True, kw_only=True):
    """The presets were read again."""

    success: Literal[True]
    presets_loaded: int
