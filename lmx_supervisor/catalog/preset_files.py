"""The presets on disk: `NAME.yaml` files of one directory, read with suspicion. Blocks; call it off the event loop."""

import os
import stat
from itertools import islice
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.config.yaml_text import YamlTextError, parse_yaml
from lmx_supervisor.core.presets import Preset, PresetBook, PresetError, Skipped, bind, read_preset


def read_presets(directory: Path, *, must_exist: bool) -> tuple[PresetBook, tuple[Skipped, ...]]:
    """The presets in a directory, and the files that give none. Never raises for what is on the disk.

    A directory that is not there holds nothing; that is worth a word where it was named (`must_exist`).
    """
    try:
        with os.scandir(directory) as entries:
            found = [entry.name for entry in islice(entries, limits.CATALOG_ENTRIES_MAX)]
    except FileNotFoundError as error:
        return PresetBook(), (Skipped(str(directory), f"cannot be read: {error.strerror}"),) if must_exist else ()
    except OSError as error:
        return PresetBook(), (Skipped(str(directory), f"cannot be read: {error.strerror}"),)
    names = sorted(name for name in found if name.endswith(".yaml") and not name.startswith("."))
    kept, left_out = names[: limits.PRESETS_MAX], names[limits.PRESETS_MAX :]
    book, skipped = bind((name, _read(directory / name)) for name in kept)
    if left_out:
        text = f"{len(left_out)} files from this one on are not read: at most {limits.PRESETS_MAX} presets are kept"
        skipped = (*skipped, Skipped(left_out[0], text))
    return book, skipped


def _read(path: Path) -> Preset | str:
    """The preset in a file, or why there is none."""
    try:
        return read_preset(parse_yaml(_text(path)))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except YamlTextError as error:
        return f"is not valid YAML: {error}"
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (byte {error.start})"
    except (PresetError, ValueError) as error:
        return str(error)
    except RecursionError:
        return "is nested too deeply"


def _text(path: Path) -> str:
    # O_NONBLOCK: a FIFO under this name must not hang the reload.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a regular file")
        data = file.read(limits.PRESET_FILE_BYTES_MAX + 1) or b""
    if len(data) > limits.PRESET_FILE_BYTES_MAX:
        raise ValueError(f"is larger than {limits.PRESET_FILE_BYTES_MAX} bytes")
    return data.decode("utf-8-sig")
