"""Small but valid model files for the catalog's tests, and ways to spoil them."""

import json
import struct
from pathlib import Path


def gguf_bytes(*, version: int = 3, alignment: int | None = None, tokens: int = 3, order: str = "<") -> bytes:
    """A GGUF file with a tokenizer-like array and two float32 tensors, 8 and 4 elements."""

    def text(value: str) -> bytes:
        return struct.pack(f"{order}Q", len(value)) + value.encode()

    metadata = [
        text("general.architecture") + struct.pack(f"{order}I", 8) + text("llama"),
        text("tokenizer.ggml.tokens")
        + struct.pack(f"{order}IIQ", 9, 8, tokens)
        + b"".join(text(f"t{n}") for n in range(tokens)),
        text("tokenizer.ggml.scores") + struct.pack(f"{order}IIQ", 9, 6, tokens) + b"\0" * 4 * tokens,
        text("general.file_type") + struct.pack(f"{order}II", 4, 1),
    ]
    if alignment is not None:
        metadata.append(text("general.alignment") + struct.pack(f"{order}II", 4, alignment))
    step = alignment or 32
    tensors = [
        text("a") + struct.pack(f"{order}IQQIQ", 2, 4, 2, 0, 0),
        text("b") + struct.pack(f"{order}IQIQ", 1, 4, 0, step),
    ]
    header = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(metadata)) + b"".join(metadata + tensors)
    padding = b"\0" * (-len(header) % step)
    return header + padding + b"\1" * 32 + b"\0" * (step - 32) + b"\2" * 16


def write_gguf(path: Path) -> Path:
    """A whole GGUF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf_bytes())
    return path


def safetensors_bytes(data_bytes: int = 16) -> bytes:
    """A whole safetensors file with one tensor."""
    entry = {"dtype": "U8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}
    header = json.dumps({"__metadata__": {"format": "mlx"}, "weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + b"\1" * data_bytes


def write_mlx(directory: Path, *, shards: int = 1, index: bool = False) -> Path:
    """A whole MLX directory."""
    directory.mkdir(parents=True, exist_ok=True)
    names = (
        [f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)] if shards > 1 else ["model.safetensors"]
    )
    for name in names:
        (directory / name).write_bytes(safetensors_bytes())
    (directory / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    (directory / "tokenizer.json").write_text("{}")
    if index:
        weight_map = {f"weight.{n}": name for n, name in enumerate(names)}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def write_script(path: Path) -> Path:
    """A scripted model, as far as the catalog looks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("emit: hello\n")
    return path
