"""Models that were loaded by path: their ids outlive the service in `registered-models.json`."""

import logging
import threading
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.atomic_file import Document, FileWriteError, ReadDocument, read_document, write_document

_log = logging.getLogger(__name__)

FILE_NAME = "registered-models.json"


class _Registrations(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    models: dict[str, str]
    """Model id → absolute path."""


class RegisteredModels:
    """Id → path, in memory and on disk. Thread-safe; `read` and `add` block on the disk."""

    def __init__(self, file: Path, found: ReadDocument[_Registrations]) -> None:
        self.found = found
        """What the file turned out to be at the start."""
        self._file = file
        self._models = dict(found.document.models) if found.document else {}
        self._writing = threading.Lock()

    @classmethod
    def read(cls, home: Path) -> "RegisteredModels":
        """What the home knows; an unusable file is set aside with a warning and nothing is registered."""
        return cls(home / FILE_NAME, read_document(home / FILE_NAME, _Registrations))

    def paths(self) -> dict[str, str]:
        """All registrations at this moment."""
        return dict(self._models)

    def add(self, model_id: str, path: Path) -> None:
        """Register, replacing an earlier path of this id. A disk that takes no writes costs the memory of it, not the load.

        Raises:
            Refusal: NOT_SUPPORTED when `REGISTERED_MODELS_MAX` ids are registered already.
        """
        with self._writing:
            models = {**self._models, model_id: str(path)}
            if models == self._models:
                return
            if len(models) > limits.REGISTERED_MODELS_MAX:
                message = f"{limits.REGISTERED_MODELS_MAX} models are registered by path; remove some from {self._file} first."
                raise Refusal(ErrorCode.NOT_SUPPORTED, message, param="path")
            self._models = models
            try:
                write_document(self._file, _Registrations(models=models))
            except FileWriteError as error:
                _log.warning("model %s is registered until the service stops only: %s", model_id, error)

    def remove(self, model_id: str) -> bool:
        """Forget a registration; whether there was one. Its files are the operator's and stay."""
        with self._writing:
            if model_id not in self._models:
                return False
            self._models = {known: path for known, path in self._models.items() if known != model_id}
            try:
                write_document(self._file, _Registrations(models=self._models))
            except FileWriteError as error:
                _log.warning("model %s is forgotten until the service stops only: %s", model_id, error)
            return True
