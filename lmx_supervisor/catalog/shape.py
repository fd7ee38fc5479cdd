"""What a model's own files say that decides its memory: GGUF metadata, an MLX directory's config.json, a script's claims.

Whatever is missing or nonsense counts as not said: an estimate that is too small is corrected by the first load, and a header
must never keep a model from being tried. Blocks on the disk.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta

from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.gguf_file import check_gguf
from lmx_supervisor.catalog.identify import Identified
from lmx_supervisor.catalog.mlx_directory import read_config, shard_names
from lmx_supervisor.catalog.scan import parts_of
from lmx_supervisor.core.memory_need import ModelShape

_NUMBER_MAX = 2**40
_FLOAT32 = "float32"
_SCRIPT_NESTING_MAX = 8
_Bytes = Annotated[int, Meta(ge=0, le=2**50)]


class _ScriptLoad(msgspec.Struct):
    bytes: _Bytes = 1_000_000
    ballast_bytes: _Bytes = 0


class _Script(msgspec.Struct):
    """The part of a script that says how large its model is."""

    load: _ScriptLoad = msgspec.field(default_factory=_ScriptLoad)


def shape_of(model: Identified) -> ModelShape:
    """The shape of a whole model. Raises `OSError` when its files vanish meanwhile."""
    match model.format:
        case ModelFormat.GGUF:
            return _gguf_shape(model.path)
        case ModelFormat.MLX:
            return _mlx_shape(model.path)
        case ModelFormat.SCRIPT:
            return _script_shape(model.path)


def _gguf_shape(path: Path) -> ModelShape:
    headers = [check_gguf(part) for part in parts_of(path)]
    first = headers[0]
    # The only prefix that says `block_count` is the architecture's.
    prefix = next((key.removesuffix("block_count") for key in first.numbers if key.endswith(".block_count")), "")

    def numbers(name: str) -> tuple[int, ...]:
        return tuple(min(max(0, value), _NUMBER_MAX) for value in first.numbers.get(prefix + name, ()))

    def number(name: str, default: int = 0) -> int:
        return max(numbers(name), default=0) or default

    layers, width, heads = number("block_count"), number("embedding_length"), number("attention.head_count", 1)
    head = width // heads
    kv_heads = numbers("attention.head_count_kv") or (heads,)
    kv_heads_of_all_layers = sum(kv_heads) if len(kv_heads) > 1 else kv_heads[0] * layers
    elements_of_a_head = number("attention.key_length", head) + number("attention.value_length", head)
    return ModelShape(
        weights_bytes=sum(header.data_bytes for header in headers),
        kv_elements_per_token=kv_heads_of_all_layers * elements_of_a_head,
        train_context_length=number("context_length"),
        width=max(width, number("feed_forward_length")),
        vocabulary_size=first.lengths.get("tokenizer.ggml.tokens", 0),
    )


def _mlx_shape(directory: Path) -> ModelShape:
    config = read_config(directory)
    text = config.get("text_config")
    sections: Sequence[Mapping[str, object]] = [config, text] if isinstance(text, dict) else [config]

    def number(*names: str, default: int = 0) -> int:
        values = (section.get(name) for name in names for section in sections)
        found = (value for value in values if isinstance(value, int) and not isinstance(value, bool))
        return next((min(value, _NUMBER_MAX) for value in found if value > 0), default)

    width, heads = number("hidden_size", "n_embd"), number("num_attention_heads", "n_head", default=1)
    kv_heads = number("num_key_value_heads", default=heads)
    head = number("head_dim", default=width // heads)
    dtypes = {str(section.get(name)) for section in sections for name in ("torch_dtype", "dtype")}
    return ModelShape(
        weights_bytes=sum((directory / name).stat().st_size for name in shard_names(directory)),
        kv_elements_per_token=number("num_hidden_layers", "n_layer") * kv_heads * head * 2,
        kv_element_bytes=4.0 if _FLOAT32 in dtypes else 2.0,
        train_context_length=number("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        width=max(width, number("intermediate_size", "n_inner")),
        vocabulary_size=number("vocab_size"),
    )


def _script_shape(path: Path) -> ModelShape:
    """What the script claims to weigh, or really takes; a script that cannot be read is its worker's to refuse."""
    text = path.read_bytes()
    load = _ScriptLoad()
    with suppress(msgspec.DecodeError, yaml.YAMLError, UnicodeError):
        if _is_flat(text):
            load = msgspec.yaml.decode(text, type=_Script).load
    return ModelShape(weights_bytes=max(load.bytes, load.ballast_bytes))


def _is_flat(text: bytes) -> bool:
    """Event by event: libyaml composes by recursion in C, and deep nesting would crash the supervisor."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _SCRIPT_NESTING_MAX:
            return False
    return True
