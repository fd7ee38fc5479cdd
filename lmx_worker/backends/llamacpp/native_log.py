"""llama.cpp's own log: problems go to stderr (which the supervisor keeps), the last ones are kept to explain a failed load."""

import functools
import sys
from collections import deque
from typing import Any

_WARNING, _ERROR, _CONTINUATION = 3, 4, 5
"""ggml's log levels of interest."""
_LINES_KEPT = 32
_LINE_CHARACTERS_MAX = 1000


class NativeLog:
    """Bounded memory of error lines. `write` is called from native threads, one call at a time (under the GIL)."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_LINES_KEPT)
        self._level = 0

    def write(self, level: int, text: bytes) -> None:
        """Take one piece of log text of a ggml level; a continuation has the level of the piece before it."""
        if level != _CONTINUATION:
            self._level = level
        if self._level not in (_WARNING, _ERROR):
            return
        line = text.decode("utf-8", "replace")[:_LINE_CHARACTERS_MAX]
        sys.stderr.write(line)
        if self._level == _ERROR and line.strip():
            self._errors.append(line.strip())

    def clear(self) -> None:
        """Forget the errors so far."""
        self._errors.clear()

    def first_error(self) -> str | None:
        """The first error since `clear`: the cause, where the later ones only say that loading failed."""
        return self._errors[0] if self._errors else None

    def last_error(self) -> str | None:
        """The newest error line."""
        return self._errors[-1] if self._errors else None


@functools.cache
def capture_native_log() -> NativeLog:
    """Take llama.cpp's log over, once per process: llama.cpp keeps a pointer to the callback for ever, and so must we."""
    import llama_cpp.llama_cpp as api

    log = NativeLog()

    @api.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def on_log(level: int, text: bytes | None, _user_data: Any) -> None:
        log.write(level, text or b"")

    api.llama_log_set(on_log, None)
    _kept_alive.append(on_log)
    return log


_kept_alive: list[Any] = []
