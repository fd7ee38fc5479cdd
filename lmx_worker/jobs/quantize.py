"""A quantized copy of a model, made in a directory that is no model to anybody until the supervisor puts it in its place."""

import errno
import shutil
from functools import partial
from pathlib import Path

from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, QuantizeModel
from lmx_worker.backends.base import LoadError
from lmx_worker.backends.mlx.quantizing import Quantization, write_quantized
from lmx_worker.jobs.refusal import JobRefusal
from lmx_worker.jobs.tally import PhaseTally

_GIGABYTE = 1000**3
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def quantize_model(work: QuantizeModel, phases: PhaseTally) -> JobDone:
    """Do it. Raises `JobRefusal`."""
    staging = Path(work.staging)
    how = Quantization(bits=work.bits, group_size=work.group_size, mode=work.mode)
    try:
        staging.mkdir(mode=0o700)
        total_bytes = write_quantized(work.source, staging, how, phases.enter, partial(_check_room, work))
    except OSError as error:
        code = ErrorCode.INSUFFICIENT_DISK if error.errno in _NO_SPACE else ErrorCode.INTERNAL_ERROR
        text = (
            f"{staging.parent} took no more: {error.strerror or error} ({error.filename}). Free space, or choose another place."
        )
        raise JobRefusal(code, text) from error
    except LoadError as error:
        raise JobRefusal(error.code, str(error)) from error
    except ImportError as error:
        text = f"mlx-lm, which quantizes, does not work in this installation: {error}"
        raise JobRefusal(ErrorCode.MODEL_UNSUPPORTED_BACKEND, text) from error
    return JobDone(path=work.staging, total_bytes=total_bytes)


def _check_room(work: QuantizeModel, needed_bytes: int) -> None:
    staging = Path(work.staging)
    free_bytes = shutil.disk_usage(staging).free
    short_bytes = needed_bytes + work.disk_reserve_bytes - free_bytes
    if short_bytes > 0:
        text = (
            f"the copy takes {_gigabytes(needed_bytes)} and {_gigabytes(work.disk_reserve_bytes)} are to stay free, but"
            f" {staging.parent} has {_gigabytes(free_bytes)} free: {_gigabytes(short_bytes)} short. Free space, or choose"
            " another output_path."
        )
        raise JobRefusal(ErrorCode.INSUFFICIENT_DISK, text)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / _GIGABYTE:.3f} GB"
