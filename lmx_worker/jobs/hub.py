"""The model hub, through huggingface-hub: what a repository holds, and the bytes of its files from any offset.

The client's own download functions start a file over when their process has died, so only its lower half is used: listing,
metadata, session, headers and the meaning of errors (docs/adr/0016). Its native transport (hf-xet) is off for the same reason.
The client reads its settings from the environment while it is imported: `process` puts them there first.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not marked as exported
    build_hf_headers,
    filter_repo_objects,
    get_session,
    hf_raise_for_status,
)

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_worker.jobs.refusal import JobRefusal

_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_CONTENT_START = re.compile(r"bytes (\d+)-")


class HubTrouble(Exception):  # noqa: N818 - it may pass
    """The hub could not be reached, or broke off: worth another attempt, after a while."""

    def __init__(self, text: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class WrongBytesError(Exception):
    """What the hub serves is not what it promised; the text says how."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a snapshot, and what its bytes must be."""

    name: str
    """Relative to the snapshot, with slashes; checked to stay inside."""
    size_bytes: int
    sha256: str | None
    git_sha1: str | None
    """Of the file as a git blob; known instead of the SHA-256 for small files."""

    @property
    def key(self) -> str:
        """The same for the same content."""
        return f"{self.sha256 or self.git_sha1}-{self.size_bytes}"


@dataclass(frozen=True, slots=True)
class Listing:
    """A snapshot."""

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


class Hub:
    """One repository of the hub that the environment names."""

    def __init__(self, repo_id: str, revision: str | None, stall_seconds: float) -> None:
        self._repo_id = repo_id
        self._revision = revision
        self._timeout_seconds = stall_seconds
        self._api = HfApi()

    def listing(self, allow_patterns: tuple[str, ...], ignore_patterns: tuple[str, ...]) -> Listing:
        """The files that the patterns select. Raises `JobRefusal`, `HubTrouble`."""
        with self._translated():
            info = self._api.model_info(
                self._repo_id, revision=self._revision, files_metadata=True, timeout=self._timeout_seconds
            )
        commit, siblings = info.sha, info.siblings or []
        if not commit or not _GIT_SHA1.fullmatch(commit):
            raise HubTrouble("the hub's listing names no commit")
        chosen = list(
            filter_repo_objects(
                siblings,
                allow_patterns=list(allow_patterns) or None,
                ignore_patterns=list(ignore_patterns) or None,
                key=lambda sibling: str(sibling.rfilename),
            )
        )
        if len(chosen) > limits.DOWNLOAD_FILES_MAX:
            text = (
                f"{self._repo_id} has {len(chosen)} files, more than {limits.DOWNLOAD_FILES_MAX}; choose with allow_patterns."
            )
            raise JobRefusal(ErrorCode.NOT_SUPPORTED, text)
        if not chosen:
            raise JobRefusal(ErrorCode.INVALID_VALUE, f"No file of {self._repo_id} matches the patterns.")
        files = tuple(self._remote_file(commit, file.rfilename, file.size, file.lfs, file.blob_id) for file in chosen)
        return Listing(commit, files)

    def cached(self, commit: str, file: RemoteFile) -> Path | None:
        """The file in the client's own cache, where other programs may have put it."""
        found = try_to_load_from_cache(self._repo_id, file.name, revision=commit)
        return Path(found) if isinstance(found, str) else None

    @contextmanager
    def content(self, commit: str, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from `start` on, as they arrive, and the offset they really begin at.

        Raises `JobRefusal`, `HubTrouble`, and `WrongBytesError` when the hub has no bytes there. All may be raised while the
        bytes are read, too.
        """
        url = hf_hub_url(self._repo_id, file.name, revision=commit)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._translated(),
            get_session().stream("GET", url, headers=headers, timeout=self._timeout_seconds, follow_redirects=True) as response,
        ):
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                raise WrongBytesError(f"it ends before byte {start} of the {file.size_bytes} that were promised")
            hf_raise_for_status(response)
            begins = 0
            if response.status_code == _PARTIAL_CONTENT:
                match = _CONTENT_START.match(response.headers.get("Content-Range", ""))
                begins = int(match[1]) if match else start
            yield begins, response.iter_raw()

    def _remote_file(self, commit: str, name: str, size: int | None, lfs: object, blob_id: str | None) -> RemoteFile:
        _check_name(name)
        sha256 = _hash_or_none(_SHA256, getattr(lfs, "sha256", None))
        git_sha1 = None if lfs else _hash_or_none(_GIT_SHA1, blob_id)
        if size is None or not (sha256 or git_sha1):
            # A mirror that lists names only still tells about each file.
            with self._translated():
                metadata = get_hf_file_metadata(hf_hub_url(self._repo_id, name, revision=commit), timeout=self._timeout_seconds)
            size = metadata.size if size is None else size
            sha256 = sha256 or _hash_or_none(_SHA256, metadata.etag)
            git_sha1 = git_sha1 or _hash_or_none(_GIT_SHA1, metadata.etag)
        if size is None or size < 0 or not (sha256 or git_sha1):
            text = f"The hub does not tell size and hash of {name}, so what it sends could not be verified."
            raise JobRefusal(ErrorCode.DOWNLOAD_FAILED, text)
        return RemoteFile(name, size, sha256, None if sha256 else git_sha1)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The client's exceptions to ours, in one place."""
        repository = self._repo_id
        try:
            yield
        except GatedRepoError as error:
            text = f"{repository} is gated: accept its terms on the hub, then set HF_TOKEN to a token of that account."
            raise JobRefusal(ErrorCode.HUB_ACCESS_DENIED, text) from error
        except RepositoryNotFoundError as error:
            text = f"The hub has no model {repository}, or it is private and HF_TOKEN does not open it."
            raise JobRefusal(ErrorCode.MODEL_NOT_FOUND, text) from error
        except RevisionNotFoundError as error:
            text = f"{repository} has no revision {self._revision!r}."
            raise JobRefusal(ErrorCode.MODEL_NOT_FOUND, text) from error
        except HfHubHTTPError as error:
            raise self._of_status(error) from error
        except OfflineModeIsEnabled as error:
            text = "HF_HUB_OFFLINE is set: unset it for the server, or put the model on this machine yourself."
            raise JobRefusal(ErrorCode.HUB_UNAVAILABLE, text) from error
        except HFValidationError as error:
            raise JobRefusal(ErrorCode.INVALID_VALUE, f"'{repository}' cannot be a repository of the hub: {error}") from error
        except httpx2.TransportError as error:
            raise HubTrouble(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        except (ValueError, KeyError, TypeError) as error:
            raise HubTrouble(f"the hub's answer makes no sense ({type(error).__name__}: {error})") from error

    def _of_status(self, error: HfHubHTTPError) -> Exception:
        status = error.response.status_code
        if status in _PASSING_STATUSES:
            wait = error.response.headers.get("Retry-After", "")
            return HubTrouble(f"the hub answers {status}", float(wait) if wait.isascii() and wait.isdecimal() else 0.0)
        if status in (401, 403):
            text = f"The hub refuses {self._repo_id} ({status}): set HF_TOKEN to a token that may read it."
            return JobRefusal(ErrorCode.HUB_ACCESS_DENIED, text)
        return JobRefusal(ErrorCode.DOWNLOAD_FAILED, f"The hub answers {status} for {self._repo_id}.")


def _hash_or_none(form: re.Pattern[str], text: str | None) -> str | None:
    return text if text is not None and form.fullmatch(text) else None


def _check_name(name: str) -> None:
    """The hub names the files; none may lead out of the snapshot."""
    parts = name.split("/")
    is_safe = name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)
    if not is_safe or len(name.encode("utf-8", "surrogatepass")) > limits.DOWNLOAD_FILE_NAME_BYTES_MAX:
        raise JobRefusal(ErrorCode.DOWNLOAD_FAILED, f"The hub lists a file that cannot be stored safely: {name[:100]!r}.")
