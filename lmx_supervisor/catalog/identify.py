"""What a path is: the model format, its size, and the proof that it is whole, before a worker is spent on it.

Blocks on the disk; call it off the event loop.
"""

import stat
from pathlib import Path

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.gguf_file import MAGIC, check_gguf
from lmx_supervisor.catalog.mlx_directory import CONFIG_FILE, check_mlx_directory
from lmx_supervisor.catalog.refusals import incomplete, no_such_path, unknown_kind, unreadable
from lmx_supervisor.catalog.scan import SCRIPT_SUFFIX, is_gguf_model, parts_of
from lmx_supervisor.core.refusal import Refusal

_SCRIPT_BYTES_MAX = 1024**2
_SHOWN_START_BYTES = 8
_TELLING_STARTS = {
    b"PK\x03\x04": "a ZIP or PyTorch archive",
    b"version ": "a pointer to a file kept elsewhere (Git LFS), not the file itself",
    b"<!DOCTYP": "a web page, probably a failed download",
    b"<html": "a web page, probably a failed download",
    b"ggjt": "a GGML file from before GGUF",
    b"tjgg": "a GGML file from before GGUF",
}


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """A whole model on disk."""

    format: ModelFormat
    path: Path
    """What a backend is given: a GGUF file (the first part of several), an MLX directory or a script."""
    size_bytes: int


def identify(path: Path) -> Identified:
    """Recognise a model and check that it is whole.

    Raises:
        Refusal: MODEL_NOT_FOUND (nothing there, or not readable), MODEL_INCOMPLETE (truncated, damaged or missing files),
            MODEL_UNSUPPORTED_BACKEND (something else), INVALID_VALUE (a directory with several models), OVERLOADED (the system
            has no descriptors or memory to look).
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _identify_directory(path)
        # Opening a FIFO would wait for a writer.
        if not stat.S_ISREG(mode):
            raise unknown_kind(path, "it is neither a file nor a directory")
        return _identify_file(path)
    except FileNotFoundError:
        raise no_such_path(path) from None
    except OSError as error:
        raise unreadable(path, error) from error


def size_on_disk_bytes(path: Path, model_format: ModelFormat) -> int:
    """Bytes of all files of a model. Raises `OSError`."""
    return sum(file.stat().st_size for file in files_of(path, model_format))


def files_of(path: Path, model_format: ModelFormat) -> list[Path]:
    """The files of a model, judged by its layout, as far as they are there. Raises `OSError`."""
    match model_format:
        case ModelFormat.MLX:
            return [file for file in path.iterdir() if file.is_file()]
        case ModelFormat.GGUF:
            return [part for part in parts_of(path) if part.is_file()]
        case ModelFormat.SCRIPT:
            return [path]


def _identify_directory(path: Path) -> Identified:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    if CONFIG_FILE in names:
        check_mlx_directory(path)
        return Identified(format=ModelFormat.MLX, path=path, size_bytes=size_on_disk_bytes(path, ModelFormat.MLX))
    ggufs = [name for name in names if is_gguf_model(name)]
    if len(ggufs) == 1:
        return _identify_file(path / ggufs[0])
    if ggufs:
        what = f"{path} holds {len(ggufs)} GGUF models ({', '.join(ggufs[:3])}, …): give the path of one of them."
        raise Refusal(ErrorCode.INVALID_VALUE, what, param="path")
    if any(name.endswith(".safetensors") for name in names):
        raise incomplete(path, f"missing {CONFIG_FILE}")
    raise unknown_kind(path, f"the directory has neither {CONFIG_FILE} nor a GGUF file")


def _identify_file(path: Path) -> Identified:
    if path.name.endswith(SCRIPT_SUFFIX):
        return _identify_script(path)
    with path.open("rb") as file:
        start = file.read(_SHOWN_START_BYTES)
    if not start:
        raise incomplete(path, "the file is empty")
    if not start.startswith(MAGIC):
        raise unknown_kind(path, _description(path, start))
    parts = parts_of(path)
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise incomplete(path, f"missing {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if missing[3:] else ""))
    for part in parts:
        check_gguf(part)
    return Identified(format=ModelFormat.GGUF, path=parts[0], size_bytes=size_on_disk_bytes(path, ModelFormat.GGUF))


def _identify_script(path: Path) -> Identified:
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise incomplete(path, "the file is empty")
    if size_bytes > _SCRIPT_BYTES_MAX:
        raise unknown_kind(path, f"a script has at most {_SCRIPT_BYTES_MAX} bytes, and it has {size_bytes}")
    return Identified(format=ModelFormat.SCRIPT, path=path, size_bytes=size_bytes)


def _description(path: Path, start: bytes) -> str:
    if path.suffix == ".safetensors":
        return "it is one safetensors file, and a model is the directory it lies in"
    meaning = next((what for telling, what in _TELLING_STARTS.items() if start.startswith(telling)), None)
    return f"it starts with {start!r}" + (f", which is {meaning}" if meaning else "")
