"""Compiling a stranger's grammar where it can do no harm: in a process of its own, with little time, memory and stack.

llguidance is bounded where it works with tokens. Before that, where it expands a grammar, it is not: some grammars of a few
kilobytes take minutes, and chains of a thousand references overflow the stack, which no code in the process survives. What gets
through here is compiled again by the worker.

Run as a program this module is that process: the grammar on stdin; on stdout the reason why it does not compile, or nothing.
"""

import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from lmx_protocol.limits import FORM_TRIAL_CPU_SECONDS, FORM_TRIAL_MEMORY_BYTES, FORM_TRIAL_SECONDS, FORM_TRIAL_STACK_BYTES
from lmx_worker.text.constraint import Constraint

TOO_COMPLEX = "it takes too long to compile; use a simpler one"
TOO_DEEP = "it overflows the compiler; use a smaller or less nested one"
_END = 256


def fails(grammar: str) -> str | None:
    """Compile a grammar in llguidance's form in a process of its own. Returns why it cannot be used, or None."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=grammar.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=FORM_TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TOO_COMPLEX
    if done.returncode == 0:
        return done.stdout.decode(errors="replace") or None
    return TOO_COMPLEX if done.returncode == -signal.SIGXCPU else TOO_DEEP


class _Bytes:
    """The smallest vocabulary that can write everything: a token for each byte, and an end."""

    eos_token_id = _END
    bos_token_id = None
    tokens: Sequence[bytes] = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    special_token_ids: Sequence[int] = [_END]

    def __call__(self, text: bytes | str) -> Sequence[int]:
        return list(text.encode() if isinstance(text, str) else text)


def open_bytes() -> Any:
    """An `llguidance.LLTokenizer` of single bytes."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _compile(grammar: str) -> str:
    from llguidance import LLMatcher, LLParserLimits

    constraint = Constraint(LLMatcher(open_bytes(), grammar, log_level=0, limits=LLParserLimits(verbose_errors=False)))
    constraint.allowed()
    return constraint.failure or ""


def main() -> None:
    """Read, compile, answer. A limit that is reached ends the process by a signal, whatever native code does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (FORM_TRIAL_CPU_SECONDS, FORM_TRIAL_CPU_SECONDS + 1))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (FORM_TRIAL_MEMORY_BYTES, FORM_TRIAL_MEMORY_BYTES))
    grammar = sys.stdin.buffer.read().decode()
    # A thread, since its stack can be made smaller than those of the threads that have to bear the same later.
    threading.stack_size(FORM_TRIAL_STACK_BYTES)
    thread = threading.Thread(target=lambda: sys.stdout.write(_compile(grammar)))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
