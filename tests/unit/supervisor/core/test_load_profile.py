"""What a load is tuned by: reading a layer, merging three, and what the worker is told."""

from typing import Any

import msgspec
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.config.schema import ModelsConfig
from lmx_supervisor.core.load_profile import (
    GenerationDefaults,
    LoadProfile,
    ProfileError,
    ProfileLayers,
    defaults_over,
    merged,
    model_spec,
    read_defaults,
    read_profile,
    settings_of,
)

EVERYTHING: dict[str, Any] = {
    "context_length": 8192,
    "slots": 8,
    "prefill_chunk_tokens": 512,
    "threads": 2,
    "gpu_layers": 5,
    "kv_bits": 8,
    "prefix_cache": False,
    "memory_estimate_gb": 1.5,
    "max_tokens": 64,
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "frequency_penalty": -1.0,
    "presence_penalty": 1.0,
    "stop": ["END"],
}


def test_every_setting_goes_in_and_comes_out() -> None:
    """The flat table that is shown and stored is the one that is read; no field of a profile is left out of it."""
    profile = read_profile(EVERYTHING, "at")

    assert settings_of(profile) == {**EVERYTHING, "stop": ("END",)}
    fields = (*LoadProfile.__struct_fields__, *GenerationDefaults.__struct_fields__)
    assert set(EVERYTHING) == set(fields) - {"generation"}
    assert read_profile(settings_of(profile), "at") == profile


@pytest.mark.parametrize(
    ("settings", "profile"),
    [
        ({}, LoadProfile()),
        ({"slots": None, "scheduler": None, "speculative": {"draft_model": None}, "kv_group_size": None}, LoadProfile()),
        ({"max_context_length": 512}, LoadProfile(context_length=512)),
        ({"max_concurrent": 3}, LoadProfile(slots=3)),
        ({"scheduler": {"max_num_seqs": 5, "prefill_batch_size": None}}, LoadProfile(slots=5)),
        ({"slots": 5, "scheduler": {"max_num_seqs": 5}}, LoadProfile(slots=5)),
        ({"prefix_cache_enabled": True}, LoadProfile(prefix_cache=True)),
        ({"stop": "END"}, LoadProfile(generation=GenerationDefaults(stop=("END",)))),
        ({"temperature": 1}, LoadProfile(generation=GenerationDefaults(temperature=1.0))),
    ],
)
def test_the_predecessors_names_mean_what_took_their_place(settings: dict[str, Any], profile: LoadProfile) -> None:
    """Aliases, groups and nulls come to the same profile as LMX's own names."""
    assert read_profile(settings, "at") == profile


@pytest.mark.parametrize(
    ("settings", "code", "param"),
    [
        ({"slotz": 1}, ErrorCode.INVALID_VALUE, "at.slotz"),
        ({"generation": {"max_tokens": 1}}, ErrorCode.INVALID_VALUE, "at.generation"),
        ({"scheduler": {"max_seqs": 1}}, ErrorCode.INVALID_VALUE, "at.scheduler.max_seqs"),
        ({"scheduler": 3}, ErrorCode.INVALID_VALUE, "at.scheduler"),
        ({"scheduler": {"prefill_batch_size": 8}}, ErrorCode.NOT_SUPPORTED, "at.scheduler.prefill_batch_size"),
        ({"speculative": {"draft_model": "x"}}, ErrorCode.NOT_SUPPORTED, "at.speculative"),
        ({"kv_group_size": 64}, ErrorCode.NOT_SUPPORTED, "at.kv_group_size"),
        ({"slots": 0}, ErrorCode.INVALID_VALUE, "at.slots"),
        ({"max_concurrent": 65}, ErrorCode.INVALID_VALUE, "at.max_concurrent"),
        ({"slots": "8"}, ErrorCode.INVALID_VALUE, "at.slots"),
        ({"slots": True}, ErrorCode.INVALID_VALUE, "at.slots"),
        ({"slots": 2, "max_concurrent": 3}, ErrorCode.INVALID_VALUE, "at.max_concurrent"),
        ({"kv_bits": 5}, ErrorCode.INVALID_VALUE, "at.kv_bits"),
        ({"prefix_cache": "yes"}, ErrorCode.INVALID_VALUE, "at.prefix_cache"),
        ({"memory_estimate_gb": 0}, ErrorCode.INVALID_VALUE, "at.memory_estimate_gb"),
        ({"temperature": 2.1}, ErrorCode.INVALID_VALUE, "at.temperature"),
        ({"stop": [""]}, ErrorCode.INVALID_VALUE, "at.stop"),
        ({"stop": {"a": 1}}, ErrorCode.INVALID_VALUE, "at.stop"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, Any], code: ErrorCode, param: str) -> None:
    """Unknown settings, those of the predecessor that LMX has not, and impossible values: never ignored."""
    with pytest.raises(ProfileError) as refused:
        read_profile(settings, "at")

    assert (refused.value.code, refused.value.param) == (code, param)
    assert str(refused.value).startswith(f"{param}: ")


def test_defaults_for_requests_alone_take_nothing_else() -> None:
    """A table of request parameters may not tune the load."""
    assert read_defaults({"temperature": 0, "stop": "x"}, "at") == GenerationDefaults(temperature=0, stop=("x",))
    with pytest.raises(ProfileError) as refused:
        read_defaults({"slots": 2}, "at")

    assert refused.value.param == "at.slots"


def test_the_operator_wins_over_the_autotune_over_the_preset() -> None:
    """Setting by setting, within the defaults for requests as well."""
    explicit = read_profile({"slots": 1, "temperature": 0.1}, "at")
    tuned = read_profile({"slots": 2, "threads": 2, "temperature": 0.2, "top_p": 0.2}, "at")
    preset = read_profile({"slots": 3, "threads": 3, "kv_bits": 4, "temperature": 0.3, "top_p": 0.3, "top_k": 3}, "at")

    won = {"slots": 1, "threads": 2, "kv_bits": 4, "temperature": 0.1, "top_p": 0.2, "top_k": 3}
    assert settings_of(merged(explicit, tuned, preset)) == won
    assert ProfileLayers(explicit=explicit, tuned=tuned, preset=preset).merge() == merged(explicit, tuned, preset)


def test_zero_and_false_are_said() -> None:
    """Only what is left out falls through to the next layer."""
    upper = read_profile({"temperature": 0, "prefix_cache": False, "threads": 0, "stop": []}, "at")
    lower = read_profile({"temperature": 1, "prefix_cache": True, "threads": 4, "stop": ["x"]}, "at")

    assert merged(upper, lower, LoadProfile()) == upper
    assert defaults_over(upper.generation, lower.generation) == upper.generation


def test_what_nobody_says_the_configuration_decides() -> None:
    """A worker is told the profile over the configuration, and every setting that is for workers reaches it."""
    models = ModelsConfig(context_length=1024, slots=3, prefill_chunk_tokens=64, gpu_layers=7, threads=9)
    bare = ModelSpec(
        model_id="m",
        path="/m",
        format=ModelFormat.GGUF,
        context_length=1024,
        slots=3,
        prefill_chunk_tokens=64,
        gpu_layers=7,
        threads=9,
    )
    assert model_spec("m", "/m", ModelFormat.GGUF, LoadProfile(), models) == bare

    told = model_spec("m", "/m", ModelFormat.GGUF, read_profile(EVERYTHING, "at"), models)
    tuned = {name: EVERYTHING[name] for name in ModelSpec.__struct_fields__ if name in EVERYTHING}
    assert len(tuned) == 7
    assert told == msgspec.structs.replace(bare, **tuned)


def test_a_profile_survives_the_state_file() -> None:
    """Stored with its layers, and read again; a file from before there were any reads as nothing said."""
    layers = ProfileLayers(explicit=read_profile(EVERYTHING, "at"), preset=read_profile({"slots": 2}, "at"))

    assert msgspec.json.decode(msgspec.json.encode(layers), type=ProfileLayers) == layers
    assert msgspec.json.decode(b"{}", type=ProfileLayers) == ProfileLayers()
