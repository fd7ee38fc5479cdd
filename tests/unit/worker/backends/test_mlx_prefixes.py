"""Prefixes of the MLX backend that outlive it, with caches that can be cut back and others."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmx_protocol.messages import PrefixesSaved, PrefixNews, PrefixRestored
from lmx_worker.backends.base import Prepared
from lmx_worker.backends.mlx.backend import MlxBackend
from lmx_worker.prefixes import prefix_file
from lmx_worker.prefixes.shelf import Shelf
from tests.support.backend_driver import ask, finish_of, run, text_of
from tests.support.mlx_models import LONG_TEXT, load_mlx, write_tiny_mlx_model

FINGERPRINT = "ab" * 16
QUESTION = ask("r", LONG_TEXT, max_tokens=6)
PLENTY = 2**40


class Life:
    """A backend over the shelf of its model."""

    def __init__(self, backend: MlxBackend, directory: Path) -> None:
        self.said: list[PrefixNews] = []
        self.backend = backend
        self.shelf = Shelf(directory, FINGERPRINT, self.said.append)
        self.shelf.open()
        backend.use_shelf(self.shelf)

    def save(self, bytes_max: int = PLENTY) -> PrefixesSaved:
        """As a worker does that stops."""
        self.shelf.save(self.backend.prefixes(), bytes_max=bytes_max, seconds=600)
        news = self.said[-1]
        assert isinstance(news, PrefixesSaved)
        return news


Lives = Callable[[], Life]


@pytest.fixture(params=["llama", "lfm2"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lives]:
    """Starts lives of one model, of either family: a cache that can be cut back, and one that cannot."""
    model = write_tiny_mlx_model(tmp_path / "model", model_type=request.param)
    backends: list[MlxBackend] = []

    def start() -> Life:
        backends.append(load_mlx(model))
        return Life(backends[-1], tmp_path / "shelf")

    yield start
    for backend in backends:
        backend.close()


def compute(life: Life, tokens: list[int]) -> tuple[str, int]:
    """What the model says to these tokens, and how many of them came from a cache."""
    life.backend.insert(Prepared(request=QUESTION, tokens=tokens, max_tokens=6))
    deltas = run(life.backend)
    return text_of(deltas, QUESTION.request_id), finish_of(deltas, QUESTION.request_id).usage.cached_tokens


def test_the_next_life_reads_what_the_last_one_computed(live: Lives) -> None:
    """A conversation that goes on is not computed again after a stop, and what the model says to it is the same."""
    last = live()
    compute(last, list(last.backend.prepare(QUESTION).tokens))
    (prefix,) = last.backend.prefixes()
    assert last.save().prefixes == 1
    continued = [*prefix.tokens, *prefix.tokens[:9]]
    said, _ = compute(last, continued)

    next_one = live()
    assert compute(next_one, continued) == (said, len(prefix.tokens))
    assert [type(news) for news in next_one.said] == [PrefixRestored]


def test_a_state_that_does_not_fit_is_refused(live: Lives, tmp_path: Path) -> None:
    """Even with a right checksum: MLX says no, the file goes, and the prompt is computed as if it had never been."""
    last = live()
    compute(last, list(last.backend.prepare(QUESTION).tokens))
    (prefix,) = last.backend.prefixes()
    continued = [*prefix.tokens, *prefix.tokens[:9]]
    state = memoryview(bytes(prefix.dump(len(prefix.tokens)))[:-10])
    (tmp_path / "shelf").mkdir()
    path = tmp_path / "shelf" / f"{FINGERPRINT}-x.prefix"
    prefix_file.write(path, FINGERPRINT, prefix.tokens, state, can_cut=prefix.can_cut, until=float("inf"))

    next_one = live()
    assert compute(next_one, continued)[1] == 0
    assert list((tmp_path / "shelf").iterdir()) == []


@pytest.mark.parametrize("live", ["llama"], indirect=True)
def test_one_that_is_cut_keeps_its_beginning(live: Lives) -> None:
    """With less room than it takes, the first tokens of a prompt are kept, and spare room is not written."""
    last = live()
    prompt = (list(last.backend.prepare(QUESTION).tokens) * 9)[:400]
    said, _ = compute(last, prompt)
    (prefix,) = last.backend.prefixes()
    saved = last.save(bytes_max=prefix.nbytes - 1)
    assert saved.bytes < prefix.nbytes

    again, cached = compute(live(), prompt)
    assert (again, cached) == (said, saved.tokens)
    assert 0 < cached < len(prompt)
