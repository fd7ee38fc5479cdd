"""GGUF files for the tests, and the demo model loaded small."""

import struct
from pathlib import Path

from gguf import GGUFValueType, GGUFWriter

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from tests.support.mlx_models import smollm2_gguf

CONTEXT_LENGTH = 512
SLOTS = 4
CHUNK_TOKENS = 32


def spec_of(path: Path) -> ModelSpec:
    """An order for a small context."""
    return ModelSpec(
        model_id="m",
        path=str(path),
        format=ModelFormat.GGUF,
        context_length=CONTEXT_LENGTH,
        slots=SLOTS,
        prefill_chunk_tokens=CHUNK_TOKENS,
        threads=1,
    )


def load_demo(*, cells: int | None = None) -> LlamaCppBackend:
    """The demo model with nothing cached."""
    backend = LlamaCppBackend(cells=cells)
    backend.load(spec_of(smollm2_gguf()), lambda *_: None)
    return backend


def copy_with_context(source: Path, target: Path, tokens: int) -> Path:
    """A copy of a llama model that says it was trained for another length: what it computes beyond its own makes no sense."""
    key = b"llama.context_length" + struct.pack("<I", GGUFValueType.UINT32)
    data = bytearray(source.read_bytes())
    at = data.index(key) + len(key)
    data[at : at + 4] = struct.pack("<I", tokens)
    target.write_bytes(data)
    return target


def write_header_only_gguf(path: Path, architecture: str) -> Path:
    """A well-formed GGUF file without tensors."""
    writer = GGUFWriter(path, architecture)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.token_type", [1, 1])
    writer.add_bool("general.flag", True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
