"""Sampling parameters of the llama.cpp backend, on the demo model."""

from collections.abc import Iterator

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Sampling
from lmx_worker.backends.base import RequestError
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from tests.support.backend_driver import GREEDY, answer, ask, run, start, step_until_text, text_of
from tests.support.llamacpp_models import load_demo

pytestmark = pytest.mark.real

STORY = "Tell me a story about a dragon."


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaCppBackend]:
    """The demo model, loaded once."""
    backend = load_demo()
    yield backend
    backend.close()


def say(backend: LlamaCppBackend, **changes: object) -> str:
    """The story under these sampling parameters."""
    sampling = Sampling(**{"temperature": 1.0, "seed": 7, **changes})  # type: ignore[arg-type]
    return answer(backend, ask("r", STORY, max_tokens=16, sampling=sampling))


def test_a_seed_decides_the_answer(backend: LlamaCppBackend) -> None:
    """The same seed says the same, another seed something else; seeds of 64 bits are taken."""
    assert say(backend) == say(backend)
    assert say(backend) != say(backend, seed=8)
    assert say(backend, seed=2**63 - 1) == say(backend, seed=2**63 - 1)


def test_without_a_seed_answers_vary(backend: LlamaCppBackend) -> None:
    """No seed means a new one each time."""
    assert len({say(backend, seed=None) for _ in range(4)}) > 1


def test_a_seed_holds_beside_other_requests(backend: LlamaCppBackend) -> None:
    """A seeded answer does not depend on the company it is computed in."""
    seeded = Sampling(temperature=0.8, seed=11)
    start(backend, ask("r2", "Count to ten.", max_tokens=24))
    begun = step_until_text(backend, "r2", 1)
    start(backend, ask("r1", STORY, max_tokens=12, sampling=seeded))
    together = text_of(begun + run(backend), "r1")
    assert answer(backend, ask("r1", STORY, max_tokens=12, sampling=seeded)) == together


@pytest.mark.parametrize("narrowing", [{"top_k": 1}, {"top_k": 0, "top_p": 1e-6}, {"top_k": 0, "min_p": 1.0}])
def test_narrowing_to_one_candidate_is_greedy(backend: LlamaCppBackend, narrowing: dict[str, float]) -> None:
    """Each of top_k, top_p and min_p alone can leave the best token only, whatever the temperature."""
    greedy = answer(backend, ask("r", STORY, max_tokens=16, sampling=GREEDY))
    assert say(backend, temperature=2.0, **narrowing) == greedy


def test_a_banned_token_is_not_said(backend: LlamaCppBackend) -> None:
    """A logit bias of -100 takes a token out: the model must say it another way."""
    question = "What is the capital of France? Answer in one sentence."
    assert backend._weights is not None
    (paris,) = backend._weights.tokenize(" Paris", add_special=False)
    banned = Sampling(temperature=0, logit_bias=((paris, -100.0),))
    assert " Paris" in answer(backend, ask("r", question))
    assert " Paris" not in answer(backend, ask("r", question, sampling=banned))


def test_penalties_count_what_was_said(backend: LlamaCppBackend) -> None:
    """Each penalty, strong, keeps a chant from repeating its words; without one it goes round and round."""
    chant = "Repeat the word fish forever: fish fish fish fish fish fish"

    def words(**penalty: float) -> list[str]:
        sampling = Sampling(temperature=0, **penalty)
        return answer(backend, ask("r", chant, max_tokens=24, sampling=sampling)).lower().split()

    plain = len(set(words()))
    assert len(set(words(frequency_penalty=2.0))) > plain
    assert len(set(words(presence_penalty=2.0))) > plain
    assert len(set(words(repeat_penalty=2.0))) > plain


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        (Sampling(logit_bias=((49152, 1.0),)), "logit_bias"),
        (Sampling(logit_bias=((-1, 1.0),)), "logit_bias"),
        (Sampling(repeat_penalty=0.0), "repeat_penalty"),
    ],
)
def test_what_native_code_cannot_take_is_refused(backend: LlamaCppBackend, sampling: Sampling, param: str) -> None:
    """Parameters outside of what llama.cpp can compute with are the client's error, with the parameter's name."""
    with pytest.raises(RequestError) as caught:
        backend.prepare(ask("r", STORY, sampling=sampling))
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, param)
