"""The saved prefixes of one model: one private directory, which nobody writes but the one worker that the model has.

A prefix is read back when a prompt comes that begins like it, not before: a load pays for the list of what is there. While its
state is brought into the backend, and until the backend has computed something with it, the file has another name: a crash in
between leaves it under that name, and the next life deletes it instead of crashing too. Trouble with the disk costs prefixes.
"""

import hashlib
import os
import platform
import shutil
import stat
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_protocol.messages import ModelFacts, ModelSpec, PrefixesDropped, PrefixesSaved, PrefixNews, PrefixRestored
from lmx_worker.prefixes import prefix_file
from lmx_worker.prefixes.choice import choose, reusable_tokens
from lmx_worker.prefixes.prefix_file import OutOfTimeError, UnusableError

_SUFFIX = ".prefix"
_BEING_RESTORED = ".restoring"
_NAME_BYTES = 16
_DIRECTORY_MODE = 0o700
_NANOSECONDS = 1_000_000_000
_FOREIGN = "of another model, backend or setting"
_LEFT_BY_A_CRASH = "its worker died while it was restored"


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a backend has computed and needs for nobody right now."""

    tokens: list[int]
    nbytes: int
    """Of its state, as far as is known before it is written out."""
    can_cut: bool
    """Whether its first tokens can be used without the others."""
    dump: Callable[[int], memoryview]
    """The state of its first so many tokens. It may forget the others: the backend is closed next."""
    is_saved: bool = False


@dataclass(eq=False, slots=True)
class SavedPrefix:
    """One file of the shelf."""

    path: Path
    tokens: list[int]
    can_cut: bool
    nbytes: int
    used_at: float
    """Unix seconds; the modification time of the file."""
    is_saved: bool = True


def fingerprint_of(digest: str, spec: ModelSpec, facts: ModelFacts) -> str:
    """Of everything that the state of a sequence depends on: other files, libraries, lengths or types give another one."""
    backend = (facts.backend, facts.backend_version, facts.architecture)
    model = (facts.context_length, facts.vocabulary_size, facts.parameters, facts.weights_bytes, spec.kv_bits)
    machine = (sys.byteorder, platform.machine(), sys.platform)
    data = msgspec.msgpack.encode((digest, backend, model, machine))
    return hashlib.blake2b(data, digest_size=_NAME_BYTES).hexdigest()


class _SkippedError(Exception):
    """A prefix is not written; the text says why."""


class Shelf:
    """Used on the engine thread. Nothing but `open` and `save` touches files that no prompt asks for."""

    def __init__(self, directory: Path, fingerprint: str, tell: Callable[[PrefixNews], None]) -> None:
        self._directory = directory
        self._fingerprint = fingerprint
        self._tell = tell
        self._saved: list[SavedPrefix] = []
        self._unproved: list[SavedPrefix] = []

    def __len__(self) -> int:
        """The prefixes that can be restored."""
        return len(self._saved)

    def open(self) -> None:
        """Find out what is there, and delete what is of no use to this worker. Raises `OSError`."""
        try:
            found = os.lstat(self._directory)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise NotADirectoryError(f"{self._directory} is no directory of ours")
        dropped: Counter[str] = Counter()
        for path in sorted(self._directory.iterdir()):
            problem = self._find(path)
            if problem is not None:
                path.unlink(missing_ok=True)
                dropped[problem] += 1
        for problem, files in dropped.items():
            self._tell(PrefixesDropped(files=files, reason=problem))

    def best(self, prompt: list[int], *, known: int) -> SavedPrefix | None:
        """The prefix that saves a prompt most, if that is worth reading it: clearly more than the `known` tokens in memory."""
        savings = [reusable_tokens(saved.tokens, prompt, can_cut=saved.can_cut) for saved in self._saved]
        most = max(savings, default=0)
        if most < known + limits.PREFIX_TOKENS_MIN:
            return None
        return self._saved[savings.index(most)]

    def restore(self, saved: SavedPrefix, into: Callable[[memoryview], bool]) -> bool:
        """Bring a prefix back: `into` takes its state, or says that it cannot. False: it is not to be had any more."""
        started_at = time.monotonic()
        self._saved.remove(saved)
        marked = saved.path.with_suffix(_BEING_RESTORED)
        try:
            saved.path.rename(marked)
            state = prefix_file.read_state(marked, self._fingerprint, saved.tokens)
            problem = None if into(state) else "the backend could not take it"
        except FileNotFoundError:
            return False  # somebody needed the room, or cleared it
        except (UnusableError, OSError) as error:
            problem = str(error)
        if problem is not None:
            with suppress(OSError):
                marked.unlink(missing_ok=True)
            self._tell(PrefixesDropped(files=1, reason=problem))
            return False
        self._unproved.append(saved)
        seconds = time.monotonic() - started_at
        self._tell(PrefixRestored(tokens=len(saved.tokens), bytes=saved.nbytes, seconds=seconds))
        return True

    def proved(self) -> None:
        """The backend has computed something since: what was restored does no harm."""
        for saved in self._unproved:
            with suppress(OSError):
                saved.path.with_suffix(_BEING_RESTORED).rename(saved.path)
                os.utime(saved.path)
                saved.used_at = time.time()
                self._saved.append(saved)
        self._unproved.clear()

    def save(self, computed: Sequence[Prefix], *, bytes_max: int, seconds: float) -> None:
        """Leave the best of what is computed and of what is there already. Late or on a full disk it leaves less."""
        started_at = time.monotonic()
        self._saved.sort(key=lambda saved: saved.used_at, reverse=True)
        candidates: list[Prefix | SavedPrefix] = [*computed, *self._saved]
        chosen = choose(candidates, bytes_max=bytes_max)
        kept = [choice.candidate for choice in chosen if isinstance(choice.candidate, SavedPrefix)]
        fresh = [(choice.candidate, choice.length) for choice in chosen if isinstance(choice.candidate, Prefix)]
        written: list[SavedPrefix] = []
        problem = ""
        try:
            for saved in self._saved:
                if saved not in kept:
                    saved.path.unlink(missing_ok=True)
            room_bytes = bytes_max - sum(saved.nbytes for saved in kept)
            for prefix, length in fresh:
                written.append(self._write(prefix, length, room_bytes, until=started_at + seconds, turn=len(written)))
                room_bytes -= written[-1].nbytes
        except OutOfTimeError:
            problem = "the disk was too slow"
        except (_SkippedError, OSError) as error:
            problem = str(error)
        self._saved = [*written, *kept]
        if not (written or kept or problem):
            return
        self._tell(
            PrefixesSaved(
                prefixes=len(written),
                tokens=sum(len(saved.tokens) for saved in written),
                bytes=sum(saved.nbytes for saved in written),
                kept=len(kept),
                seconds=time.monotonic() - started_at,
                problem=problem,
            )
        )

    def _find(self, path: Path) -> str | None:
        """Take a file in, or say why it is of no use."""
        if path.suffix == _BEING_RESTORED:
            return _LEFT_BY_A_CRASH
        if path.suffix != _SUFFIX or not path.name.startswith(f"{self._fingerprint}-"):
            return _FOREIGN
        try:
            contents = prefix_file.look_at(path, self._fingerprint)
            used_at = path.stat().st_mtime
        except (UnusableError, OSError) as error:
            return str(error)
        self._saved.append(SavedPrefix(path, contents.tokens, contents.can_cut, contents.file_bytes, used_at))
        return None

    def _write(self, prefix: Prefix, length: int, room_bytes: int, *, until: float, turn: int) -> SavedPrefix:
        """One file. The first to be written was used last, so each `turn` after it is a little older."""
        wanted_bytes = prefix.nbytes * length // len(prefix.tokens)
        if time.monotonic() + wanted_bytes / limits.PREFIX_SAVE_BYTES_PER_SECOND > until:
            raise _SkippedError("there was no time left for more")
        for directory in (self._directory.parent, self._directory):
            directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        if shutil.disk_usage(self._directory).free - wanted_bytes < limits.PREFIX_DISK_RESERVE_BYTES:
            raise _SkippedError("the disk has no room to spare")
        tokens = prefix.tokens[:length]
        state = prefix.dump(length)
        if prefix_file.file_bytes(length, state.nbytes) > room_bytes or state.nbytes > limits.PREFIX_FILE_BYTES_MAX:
            raise _SkippedError("a prefix is larger than expected")
        name = hashlib.blake2b(array("i", tokens).tobytes(), digest_size=_NAME_BYTES).hexdigest()
        path = self._directory / f"{self._fingerprint}-{name}{_SUFFIX}"
        nbytes = prefix_file.write(path, self._fingerprint, tokens, state, can_cut=prefix.can_cut, until=until)
        used_at_nanoseconds = time.time_ns() - turn * _NANOSECONDS
        os.utime(path, ns=(used_at_nanoseconds, used_at_nanoseconds))
        return SavedPrefix(path, tokens, prefix.can_cut, nbytes, used_at_nanoseconds / _NANOSECONDS)
