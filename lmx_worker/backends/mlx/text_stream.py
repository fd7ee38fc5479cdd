"""From sampled tokens to final text for one request: detokenizing, control tokens, stop strings.

mlx-lm's streaming detokenizers hold back incomplete characters, its text state machine what may become a stop string.
Stop strings are found in the text, not in token ids: the tokens a model writes a string with are seldom those it encodes to.
"""

from collections.abc import Sequence
from typing import Any

_RUNNING = 0
"""The state before any stop string; each stop string is the name of the state it leads to, so it cannot be one itself."""


class TextStream:
    """The text of one request. `stop_sequence` is set once a stop string was met; nothing is final after it."""

    def __init__(self, detokenizer: Any, stops: Sequence[str], is_visible: bytes) -> None:
        """`is_visible` has one byte per token id: 0 for ids that stand for no text (control tokens, unused ids)."""
        from mlx_lm.generate import TextStateMachine

        self.stop_sequence: str | None = None
        self._detokenizer = detokenizer
        self._is_visible = is_visible
        self._split = TextStateMachine.split
        self._flush = TextStateMachine.flush
        transitions: dict[Any, list[tuple[str, str]]] = {_RUNNING: [(stop, stop) for stop in stops if stop]}
        transitions.update({stop: [] for stop in stops})
        self._state = TextStateMachine(transitions).make_state(_RUNNING)

    def push(self, token: int) -> str:
        """Take one token; returns the text that became final by it, often none."""
        if self._is_visible[token]:
            self._detokenizer.add_token(token)
        return self._advance()

    def finish(self) -> str:
        """No more tokens: returns what was held back, up to a stop string if that completes one."""
        self._detokenizer.finalize()
        text = self._advance()
        if self.stop_sequence is None:
            self._state, held_back, _ = self._flush(self._state)
            text += held_back
        return text

    def _advance(self) -> str:
        if self.stop_sequence is not None:
            return ""
        self._state, segments = self._split(self._state, self._detokenizer.last_segment)
        current = self._state[0]
        if current != _RUNNING:
            self.stop_sequence = current
        return "".join(text for state, text in segments if state == _RUNNING)
