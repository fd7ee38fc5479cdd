"""Which model will probably be wanted next, told from the last ones that were. Pure.

An access is a request that was taken, or a load that an operator ordered. What followed the latest model at least twice before
is likely to follow it again; else a model that was used often, at least three times, is. A model that is there already is
nothing to foresee.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise

from lmx_protocol import limits


@dataclass(frozen=True, slots=True)
class PredictorView:
    """What is known at one moment."""

    total_accesses: int
    """Ever, those of earlier runs included."""
    history: tuple[str, ...]
    """The latest models, the last one last."""
    predicted_next: str | None

    @property
    def top_models(self) -> tuple[tuple[str, int], ...]:
        """How often each model is in the history, the most frequent first."""
        return tuple(sorted(Counter(self.history).items(), key=lambda item: (-item[1], item[0])))

    @property
    def transition_count(self) -> int:
        """How many different changes from one model to another are in the history."""
        return len(_transitions(self.history))


class Predictor:
    """Remembers accesses, a bounded number of them."""

    def __init__(self) -> None:
        self._history: deque[str] = deque(maxlen=limits.PREDICTOR_HISTORY_MAX)
        self._total = 0

    def remember(self, history: Iterable[str], total_accesses: int) -> None:
        """What was noted before this start."""
        self._history.extend(history)
        self._total += max(total_accesses, len(self._history))

    def note(self, model_id: str) -> None:
        """A model was wanted."""
        self._history.append(model_id)
        self._total += 1

    def predict(self, present: Collection[str]) -> str | None:
        """The model that is likely to be wanted next and is not `present`; None when nothing is likely enough."""
        if not self._history:
            return None
        latest = self._history[-1]
        followers = Counter(
            {
                after: count
                for (before, after), count in _transitions(self._history).items()
                if before == latest and after not in present
            }
        )
        frequent = Counter(model_id for model_id in self._history if model_id not in present)
        return self._likeliest(followers, limits.PREDICTOR_TRANSITIONS_MIN) or self._likeliest(
            frequent, limits.PREDICTOR_ACCESSES_MIN
        )

    def view(self, present: Collection[str]) -> PredictorView:
        """What is known now."""
        return PredictorView(self._total, tuple(self._history), self.predict(present))

    def _likeliest(self, counts: Counter[str], at_least: int) -> str | None:
        """The one with the highest count; among equal ones, the one that was used last."""
        last_seen = {model_id: index for index, model_id in enumerate(self._history)}
        likely = [model_id for model_id, count in counts.items() if count >= at_least]
        return max(likely, key=lambda model_id: (counts[model_id], last_seen[model_id]), default=None)


def _transitions(history: Iterable[str]) -> Counter[tuple[str, str]]:
    """How often each change from one model to another happened."""
    return Counter((before, after) for before, after in pairwise(history) if before != after)
