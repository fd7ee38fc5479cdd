"""Prefixes of the llama.cpp backend that outlive it, on the demo model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_protocol.messages import GenerateRequest, PrefixesSaved, PrefixNews, PrefixRestored
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from lmx_worker.prefixes import prefix_file
from lmx_worker.prefixes.shelf import Shelf
from tests.support.backend_driver import GREEDY, answer, ask, finish_of, run, start, text_of
from tests.support.llamacpp_models import load_demo

pytestmark = pytest.mark.real

FINGERPRINT = "ab" * 16
RIVERS = "Tell me about rivers, lakes and mountains. " * 20
QUESTION = ask("r", RIVERS + "Which of them is the longest?", max_tokens=8)
PLENTY = 2**40


@pytest.fixture(scope="module")
def first() -> Iterator[LlamaCppBackend]:
    """A first life, loaded once: nothing of it is closed by saving."""
    backend = load_demo()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def second() -> Iterator[LlamaCppBackend]:
    """A second life: every test gives it another shelf."""
    backend = load_demo()
    yield backend
    backend.close()


class Shelved:
    """A shelf and what it said."""

    def __init__(self, directory: Path) -> None:
        self.said: list[PrefixNews] = []
        self.shelf = Shelf(directory, FINGERPRINT, self.said.append)
        self.shelf.open()


def forget(backend: LlamaCppBackend) -> None:
    """Have nothing computed in memory."""
    assert backend._memory is not None
    backend._memory.forget_everything()


def test_the_next_life_reads_what_the_last_one_computed(
    first: LlamaCppBackend, second: LlamaCppBackend, tmp_path: Path
) -> None:
    """All but the last token of the prompt come from the disk, and the answer is the one that was computed."""
    forget(first)
    said = answer(first, QUESTION)
    last = Shelved(tmp_path / "shelf")
    last.shelf.save(first.prefixes(), bytes_max=PLENTY, seconds=600)
    (saved,) = last.said
    assert isinstance(saved, PrefixesSaved) and saved.prefixes == 1

    forget(second)
    next_one = Shelved(tmp_path / "shelf")
    second.use_shelf(next_one.shelf)
    start(second, QUESTION)
    deltas = run(second)
    usage = finish_of(deltas, "r").usage
    assert usage.cached_tokens == usage.prompt_tokens - 1
    assert text_of(deltas, "r") == said
    assert [type(news) for news in next_one.said] == [PrefixRestored]


def test_a_prefix_that_was_cut_is_shared_by_another_question(
    first: LlamaCppBackend, second: LlamaCppBackend, tmp_path: Path
) -> None:
    """With half the room its first half is kept, and serves a prompt that goes on otherwise, with the same answer."""
    forget(first)
    other = ask("r", RIVERS + "Name one lake.", max_tokens=8)
    said = answer(first, other)
    forget(first)
    answer(first, QUESTION)
    (whole,) = first.prefixes()
    last = Shelved(tmp_path / "shelf")
    last.shelf.save([whole], bytes_max=whole.nbytes * 3 // 4, seconds=600)
    (saved,) = last.said
    assert isinstance(saved, PrefixesSaved)
    assert len(whole.tokens) // 2 < saved.tokens < len(whole.tokens)

    forget(second)
    second.use_shelf(Shelved(tmp_path / "shelf").shelf)
    start(second, other)
    deltas = run(second)
    assert saved.tokens - 20 <= finish_of(deltas, "r").usage.cached_tokens <= saved.tokens
    assert text_of(deltas, "r") == said


@pytest.mark.parametrize("spoil", [lambda state: state[:-100], lambda state: bytes(len(state))], ids=["cut", "zeros"])
def test_a_state_that_does_not_fit_is_refused(first: LlamaCppBackend, second: LlamaCppBackend, tmp_path: Path, spoil) -> None:
    """Even with a right checksum: llama.cpp says no, the file goes, and the prompt is computed as if it had never been."""
    forget(first)
    said = answer(first, QUESTION)
    (prefix,) = first.prefixes()
    directory = tmp_path / "shelf"
    directory.mkdir()
    state = memoryview(spoil(bytes(prefix.dump(len(prefix.tokens)))))
    path = directory / f"{FINGERPRINT}-x.prefix"
    prefix_file.write(path, FINGERPRINT, prefix.tokens, state, can_cut=True, until=float("inf"))

    forget(second)
    second.use_shelf(Shelved(directory).shelf)
    start(second, QUESTION)
    deltas = run(second)
    assert finish_of(deltas, "r").usage.cached_tokens == 0
    assert text_of(deltas, "r") == said
    assert list(directory.iterdir()) == []


def test_what_is_in_memory_is_not_read_from_the_disk(first: LlamaCppBackend, tmp_path: Path) -> None:
    """A prompt that a slot holds already costs no read."""
    forget(first)
    answer(first, QUESTION)
    shelved = Shelved(tmp_path / "shelf")
    shelved.shelf.save(first.prefixes(), bytes_max=PLENTY, seconds=600)
    first.use_shelf(shelved.shelf)
    start(first, QUESTION)
    assert finish_of(run(first), "r").usage.cached_tokens > 0
    assert [type(news) for news in shelved.said] == [PrefixesSaved]


def test_a_running_request_is_not_saved(first: LlamaCppBackend) -> None:
    """Only what no request is writing to is offered."""
    forget(first)
    start(first, GenerateRequest(request_id="busy", model_id="m", prompt=RIVERS, max_tokens=4, sampling=GREEDY))
    first.step()
    assert first.prefixes() == []
    first.remove("busy")
    assert len(first.prefixes()) == 1
