"""Which backend a model is given to: those that can serve its format, in order of preference, without those that failed. Pure.

The ledger is the compatibility registry. What counts is the newest word on each backend: a model that was served, or a failure.
That a probe could open the model says less than that it was served, so it undoes no failure; a probe that failed counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import BACKEND_NAMES, BACKENDS_OF_FORMAT, BackendName, ModelFormat
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import CompatibilityRow

BY_PROBE = "probe"
"""In a row's metadata: the word comes from a probe, not from a load."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that can serve the format."""

    backend: BackendName
    failed: str | None = None
    """Why it is passed over: the newest word on it."""


def candidates(
    model_id: str,
    format_: ModelFormat,
    *,
    preference: Sequence[str] | None,
    ledger: Iterable[CompatibilityRow],
    allow_failed: bool,
) -> tuple[Candidate, ...]:
    """The backends of a format, the one to try first at the front, those that are passed over at the end.

    None is passed over when all have failed: then all are tried again. `ledger`: the newest row last.
    """
    newest = {row.backend: row for row in ledger if row.model_id == model_id and not _is_passed_probe(row)}
    suited = BACKENDS_OF_FORMAT[format_]
    preferred = _preferred(preference)
    ordered = [*(backend for backend in preferred if backend in suited), *(name for name in suited if name not in preferred)]
    failed = {name: row.reason or "" for name, row in newest.items() if row.outcome == "fail" and name in ordered}
    if allow_failed or len(failed) == len(ordered):
        failed = {}
    choice = [Candidate(backend, failed.get(backend)) for backend in ordered]
    return tuple(sorted(choice, key=lambda candidate: candidate.failed is not None))


def backend_for(
    model_id: str,
    format_: ModelFormat,
    *,
    wanted: str | None,
    preference: Sequence[str] | None,
    ledger: Iterable[CompatibilityRow],
    allow_failed: bool,
) -> BackendName:
    """The one to load a model with: the one that was asked for, else the first candidate.

    Raises:
        Refusal: INVALID_VALUE for a name that is no backend, MODEL_UNSUPPORTED_BACKEND for one that cannot serve the format.
    """
    if wanted is None:
        return candidates(model_id, format_, preference=preference, ledger=ledger, allow_failed=allow_failed)[0].backend
    backend, suited = BACKEND_NAMES.get(wanted), BACKENDS_OF_FORMAT[format_]
    if backend is None:
        names = ", ".join(sorted(BACKEND_NAMES))
        raise Refusal(ErrorCode.INVALID_VALUE, f"Unknown backend '{wanted[:64]}'; known are {names}.", param="backend")
    if backend not in suited:
        can = " or ".join(suited)
        text = f"Backend {backend} cannot serve '{model_id}', which is a {format_} model; {can} can."
        raise Refusal(ErrorCode.MODEL_UNSUPPORTED_BACKEND, text, param="backend")
    return backend


def _preferred(preference: Sequence[str] | None) -> list[BackendName]:
    """Several of the predecessor's names may mean one backend: the first one counts."""
    return list(dict.fromkeys(BACKEND_NAMES[name] for name in preference or ()))


def _is_passed_probe(row: CompatibilityRow) -> bool:
    return row.outcome == "pass" and BY_PROBE in row.metadata
