"""The saved prefixes of one model from one life of its worker to the next."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lmx_protocol import limits
from lmx_protocol.messages import ModelSpec, PrefixesDropped, PrefixesSaved, PrefixNews, PrefixRestored
from lmx_protocol.states import ModelFormat
from lmx_worker.prefixes.shelf import Prefix, Shelf, fingerprint_of
from tests.support.fake_backend import FACTS

FINGERPRINT = "ab" * 16
TOKENS = list(range(200))
STATE = b"state of two hundred tokens"
PLENTY = 2**40


class Life:
    """One worker's shelf, opened, and what it said."""

    def __init__(self, directory: Path, fingerprint: str = FINGERPRINT) -> None:
        self.said: list[PrefixNews] = []
        self.shelf = Shelf(directory, fingerprint, self.said.append)
        self.shelf.open()

    def save(self, *prefixes: Prefix, bytes_max: int = PLENTY, seconds: float = 60.0) -> PrefixesSaved:
        self.shelf.save(prefixes, bytes_max=bytes_max, seconds=seconds)
        news = self.said[-1]
        assert isinstance(news, PrefixesSaved)
        return news

    def restore(self, prompt: list[int], into: Callable[[memoryview], bool] = lambda _: True) -> bool:
        """Restore the best prefix for a prompt; there must be one."""
        saved = self.shelf.best(prompt, known=0)
        assert saved is not None
        return self.shelf.restore(saved, into)


def prefix(tokens: list[int], state: bytes = STATE, *, nbytes: int = 1000, can_cut: bool = True) -> Prefix:
    """Something computed."""
    return Prefix(tokens=tokens, nbytes=nbytes, can_cut=can_cut, dump=lambda length: memoryview(state))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The shelf of a model that was never loaded: it does not exist yet."""
    return tmp_path / "prefix-cache" / "model"


@pytest.fixture
def saved(directory: Path) -> Path:
    """A shelf with one prefix on it."""
    assert Life(directory).save(prefix(TOKENS)).prefixes == 1
    return directory


def test_what_one_life_leaves_the_next_one_finds(saved: Path) -> None:
    """The state comes back byte by byte for a prompt that begins alike, and operators hear of both."""
    next_life = Life(saved)
    got: list[bytes] = []
    assert next_life.restore([*TOKENS, 7], into=lambda state: got.append(bytes(state)) is None)
    assert got == [STATE]
    (news,) = next_life.said
    assert isinstance(news, PrefixRestored)
    assert (news.tokens, news.bytes) == (len(TOKENS), next(saved.iterdir()).stat().st_size)


def test_others_cannot_look_into_it(saved: Path) -> None:
    """Directories and files are the service's alone: what clients said is in them."""
    assert [path.stat().st_mode & 0o777 for path in (saved.parent, saved, next(saved.iterdir()))] == [0o700, 0o700, 0o600]


def test_only_a_prefix_that_saves_clearly_more_is_read(saved: Path) -> None:
    """What is in memory anyway is not read from the disk, nor is a beginning that is computed as fast."""
    shelf = Life(saved).shelf
    enough = limits.PREFIX_TOKENS_MIN
    assert shelf.best([*TOKENS, 7], known=len(TOKENS) - enough) is not None
    assert shelf.best([*TOKENS, 7], known=len(TOKENS) - enough + 1) is None
    assert shelf.best([*TOKENS[: enough - 1], 999], known=0) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_deleted_and_told(saved: Path, damage: str) -> None:
    """It reaches no backend, and does not stay to be tried again."""
    (file,) = saved.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes({"cut": data[:-1], "flip": data, "empty": b""}[damage])
    life = Life(saved)
    best = life.shelf.best([*TOKENS, 7], known=0)
    assert best is None or not life.shelf.restore(best, lambda _: pytest.fail("it was handed out"))
    assert [type(news) for news in life.said] == [PrefixesDropped]
    assert list(saved.iterdir()) == []


def test_what_another_setting_left_is_deleted(saved: Path) -> None:
    """Other files, another backend version or context length: its state means nothing here."""
    assert Life(saved, "cd" * 16).said == [PrefixesDropped(files=1, reason="of another model, backend or setting")]
    assert list(saved.iterdir()) == []


def test_a_crash_while_restoring_is_not_repeated(saved: Path) -> None:
    """A worker that dies before it has computed anything with a restored prefix leaves it marked, and the next deletes it."""
    assert Life(saved).restore([*TOKENS, 7])
    after_the_crash = Life(saved)
    assert after_the_crash.shelf.best([*TOKENS, 7], known=0) is None
    assert after_the_crash.said == [PrefixesDropped(files=1, reason="its worker died while it was restored")]
    assert list(saved.iterdir()) == []


def test_a_proved_prefix_can_be_used_again(saved: Path) -> None:
    """Once something was computed with it, it is there for the next need and for the next life."""
    life = Life(saved)
    assert life.restore([*TOKENS, 7])
    assert life.shelf.best([*TOKENS, 7], known=0) is None
    life.shelf.proved()
    assert life.restore([*TOKENS, 8])
    life.shelf.proved()
    assert len(Life(saved).shelf) == 1


def test_a_state_that_the_backend_does_not_take_is_deleted(saved: Path) -> None:
    """It would not take it the next time either."""
    life = Life(saved)
    assert not life.restore([*TOKENS, 7], into=lambda _: False)
    assert life.said == [PrefixesDropped(files=1, reason="the backend could not take it")]
    assert list(saved.iterdir()) == []


def test_a_file_that_somebody_cleared_is_a_miss(saved: Path) -> None:
    """Clearing the cache under a loaded model costs it the computing, and is no fault."""
    life = Life(saved)
    next(saved.iterdir()).unlink()
    assert not life.restore([*TOKENS, 7])
    assert life.said == []


def test_a_prefix_that_is_still_saved_is_not_written_again(saved: Path) -> None:
    """A life that computed nothing new leaves the file as it is."""
    (before,) = [file.stat().st_ino for file in saved.iterdir()]
    news = Life(saved).save(prefix(TOKENS, b"another"))
    assert (news.prefixes, news.kept) == (0, 1)
    assert [file.stat().st_ino for file in saved.iterdir()] == [before]


def test_what_has_no_room_any_more_goes(saved: Path) -> None:
    """A smaller bound is kept at the next stop, the least recently used first."""
    other = [token + 1000 for token in TOKENS]
    news = Life(saved).save(prefix(other), bytes_max=1500)
    assert (news.prefixes, news.kept) == (1, 0)
    assert Life(saved).shelf.best([*other, 7], known=0) is not None
    assert sum(file.stat().st_size for file in saved.iterdir()) <= 1500


def test_a_stop_in_a_hurry_keeps_nothing(directory: Path) -> None:
    """Where the disk may take longer than there is time, it is not tried, and that is said."""
    news = Life(directory).save(prefix(TOKENS, nbytes=100 * 1024**2), seconds=0.01)
    assert (news.prefixes, news.problem) == (0, "there was no time left for more")
    assert not list(directory.parent.glob("**/*.*"))


def test_a_disk_that_is_nearly_full_is_left_alone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others need the rest of it more."""
    monkeypatch.setattr(limits, "PREFIX_DISK_RESERVE_BYTES", 2**62)
    news = Life(directory).save(prefix(TOKENS))
    assert (news.prefixes, news.problem) == (0, "the disk has no room to spare")


def test_a_state_larger_than_announced_does_not_break_the_bound(directory: Path) -> None:
    """What was estimated is checked when it is known."""
    news = Life(directory).save(prefix(TOKENS, bytes(5000)), bytes_max=2000)
    assert (news.prefixes, news.problem) == (0, "a prefix is larger than expected")


def test_a_shelf_that_cannot_be_written_harms_nothing(directory: Path) -> None:
    """A file where the directory should be: the stop goes on, and the reason is told."""
    directory.parent.parent.mkdir(exist_ok=True)
    directory.parent.write_text("in the way")
    shelf = Shelf(directory, FINGERPRINT, (said := []).append)
    shelf.save([prefix(TOKENS)], bytes_max=PLENTY, seconds=60)
    (news,) = said
    assert news.prefixes == 0
    assert news.problem


def test_a_directory_that_is_a_link_is_not_opened(saved: Path, tmp_path: Path) -> None:
    """Whoever put it there does not get other files deleted by us."""
    link = tmp_path / "link"
    link.symlink_to(saved)
    with pytest.raises(NotADirectoryError):
        Life(link, "cd" * 16)
    assert len(list(saved.iterdir())) == 1


@pytest.mark.parametrize(
    ("digest", "spec", "facts"),
    [
        ("other files", {}, {}),
        ("d", {"kv_bits": 8}, {}),
        ("d", {}, {"context_length": 64}),
        ("d", {}, {"backend_version": "1"}),
        ("d", {}, {"architecture": "other"}),
    ],
)
def test_everything_that_shapes_the_state_is_in_the_name(digest: str, spec: dict, facts: dict) -> None:
    """Other files, types, lengths or libraries: another fingerprint."""
    plain = ModelSpec(model_id="m", path="p", format=ModelFormat.GGUF)
    changed = msgspec.structs.replace(plain, **spec), msgspec.structs.replace(FACTS, **facts)
    assert fingerprint_of(digest, *changed) != fingerprint_of("d", plain, FACTS)
    assert fingerprint_of("d", plain, FACTS) == fingerprint_of("d", plain, FACTS)
