"""What a load can be tuned by: read from whoever says so, merged from three layers, made into what a worker is told. Pure.

An operator's overrides, the record of an autotune and a preset each say some of it; what none of them says, the configuration
decides. Names that the predecessor's clients and presets use mean the setting that took their place; what it had and LMX has
not is refused, never ignored.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.config.schema import ModelsConfig, Slots

Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopString = Annotated[str, Meta(min_length=1, max_length=limits.STOP_STRING_CHARACTERS_MAX)]
StopStrings = Annotated[tuple[StopString, ...], Meta(max_length=limits.STOP_STRINGS_MAX)]


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request is answered with where it leaves a parameter out; None: as LMX does without being told."""

    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS_MAX)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: StopStrings | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields of a `Sampling` that these say something about."""
        said = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
        }
        return {name: value for name, value in said.items() if value is not None}


class LoadProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of one layer; None: this layer does not say."""

    context_length: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS_MAX)] | None = None
    """Tokens per sequence."""
    slots: Slots | None = None
    """Sequences decoded together."""
    prefill_chunk_tokens: Annotated[int, Meta(ge=16, le=8192)] | None = None
    threads: Annotated[int, Meta(ge=0, le=1024)] | None = None
    """0: one per core."""
    gpu_layers: Annotated[int, Meta(ge=-1)] | None = None
    """-1: all of them."""
    kv_bits: Literal[4, 8, 16] | None = None
    prefix_cache: bool | None = None
    """Whether what was computed of one prompt is reused for the next that begins alike."""
    memory_estimate_gb: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """What to reserve for it instead of what its files suggest, in units of 1024³ bytes."""
    generation: GenerationDefaults = GenerationDefaults()


NOTHING = LoadProfile()
"""A layer that says nothing."""


class ProfileLayers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who said what about one load, the first having the last word."""

    explicit: LoadProfile = NOTHING
    """The operator, with the load itself."""
    tuned: LoadProfile = NOTHING
    """An autotune's record."""
    preset: LoadProfile = NOTHING

    def merge(self) -> LoadProfile:
        """What comes of them."""
        return merged(self.explicit, self.tuned, self.preset)


UNTUNED = ProfileLayers()
"""Nobody said anything."""


class ProfileError(Exception):
    """A setting that cannot be; `param` is its dotted path, the text says what would do."""

    def __init__(self, code: ErrorCode, param: str, text: str) -> None:
        super().__init__(f"{param}: {text}")
        self.code = code
        self.param = param


# --- layers ---------------------------------------------------------------------------------------------------------------

_Layer = TypeVar("_Layer", LoadProfile, GenerationDefaults)


def merged(explicit: LoadProfile, tuned: LoadProfile, preset: LoadProfile) -> LoadProfile:
    """Each setting as the first layer that names it says."""
    return _over(explicit, _over(tuned, preset))


def defaults_over(upper: GenerationDefaults, lower: GenerationDefaults) -> GenerationDefaults:
    """Each default as `upper` says, and where it does not, as `lower` does."""
    return _over(upper, lower)


def _over(upper: _Layer, lower: _Layer) -> _Layer:
    said: dict[str, Any] = {}
    for name in upper.__struct_fields__:
        above, below = getattr(upper, name), getattr(lower, name)
        if isinstance(above, GenerationDefaults):
            said[name] = _over(above, below)
        else:
            said[name] = below if above is None else above
    return type(upper)(**said)


def settings_of(profile: LoadProfile) -> dict[str, Any]:
    """What a profile says, as one flat table under the names that `read_profile` takes."""
    said: dict[str, Any] = msgspec.to_builtins(profile)
    generation = said.pop("generation", {})
    return {**said, **generation}


def model_spec(model_id: str, path: str, format_: ModelFormat, profile: LoadProfile, models: ModelsConfig) -> ModelSpec:
    """What the worker is told: the profile over the configuration."""
    return ModelSpec(
        model_id=model_id,
        path=path,
        format=format_,
        context_length=_first(profile.context_length, models.context_length),
        slots=_first(profile.slots, models.slots),
        prefill_chunk_tokens=_first(profile.prefill_chunk_tokens, models.prefill_chunk_tokens),
        kv_bits=_first(profile.kv_bits, 16),
        gpu_layers=_first(profile.gpu_layers, models.gpu_layers),
        threads=_first(profile.threads, models.threads),
        prefix_cache=profile.prefix_cache is not False,
    )


def _first(said: int | None, configured: int) -> int:
    return configured if said is None else said


# --- reading --------------------------------------------------------------------------------------------------------------

_ALIASES = {
    "max_context_length": "context_length",
    "max_concurrent": "slots",
    "max_concurrent_requests": "slots",
    "scheduler.max_num_seqs": "slots",
    "prefix_cache_enabled": "prefix_cache",
}
"""The predecessor's names, by the setting that took their place."""

_NOT_HERE = frozenset(
    {
        "kv_group_size",
        "quantized_kv_start",
        "speculative",
        "speculative_model",
        "speculative_num_tokens",
        "speculative_require_supported",
        "stream_interval",
        "use_batching",
        "warmup_on_load",
        "scheduler.prefill_batch_size",
        "scheduler.completion_batch_size",
        "scheduler.cache_memory_percent",
    }
)
"""What the predecessor could be tuned by, and LMX cannot."""

_GROUPS = ("scheduler",)
"""Settings that come together in a table of their own."""

_TYPES: dict[str, Any] = {
    field.name: field.type
    for struct in (LoadProfile, GenerationDefaults)
    for field in msgspec.structs.fields(struct)
    if field.name != "generation"
}


def read_profile(settings: Mapping[str, object], at: str) -> LoadProfile:
    """One layer from a table of settings, null meaning that it is left out; `at` is what the table is called.

    Raises:
        ProfileError: a setting is unknown, cannot be done here, or has a value that cannot be.
    """
    said = _read(settings, at, known=_TYPES)
    generation = {name: said.pop(name) for name in GenerationDefaults.__struct_fields__ if name in said}
    return LoadProfile(**said, generation=GenerationDefaults(**generation))


def read_defaults(settings: Mapping[str, object], at: str) -> GenerationDefaults:
    """As `read_profile`, of a table that may hold nothing but defaults for requests."""
    names = GenerationDefaults.__struct_fields__
    return GenerationDefaults(**_read(settings, at, known={name: _TYPES[name] for name in names}))


def _read(settings: Mapping[str, object], at: str, *, known: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for given, value in _flat(settings):
        name = _ALIASES.get(given, given)
        param = f"{at}.{given}"
        if name in _NOT_HERE:
            raise ProfileError(ErrorCode.NOT_SUPPORTED, param, "LMX has nothing that this would tune; leave it out.")
        if name not in known:
            raise ProfileError(ErrorCode.INVALID_VALUE, param, f"there is no such setting; known are {', '.join(known)}.")
        converted = _converted(name, value, param)
        if said.setdefault(name, converted) != converted:
            raise ProfileError(ErrorCode.INVALID_VALUE, param, f"{name} is set twice, to different values.")
    return said


def _flat(settings: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Every setting that is not null, under its dotted name."""
    for name, value in settings.items():
        if name in _GROUPS and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", of_it) for inner, of_it in value.items() if of_it is not None)
        elif value is not None and not _asks_for_nothing(value):
            yield name, value


def _asks_for_nothing(value: object) -> bool:
    return isinstance(value, Mapping) and all(inner is None for inner in value.values())


def _converted(name: str, value: object, param: str) -> object:
    if name == "stop" and isinstance(value, str):
        value = (value,)
    try:
        return msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError as error:
        reason = str(error).split(" - at ")[0]
        raise ProfileError(ErrorCode.INVALID_VALUE, param, f"{reason[0].lower()}{reason[1:]}.") from None
