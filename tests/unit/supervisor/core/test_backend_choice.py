"""Which backend a model is given to."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import BACKEND_NAMES, BACKENDS_OF_FORMAT, BackendName, ModelFormat
from lmx_supervisor.config.schema import BackendChoice
from lmx_supervisor.core import backend_choice
from lmx_supervisor.core.backend_choice import BY_PROBE, Candidate, backend_for, candidates
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import CompatibilityRow

LLAMACPP, MLX = BackendName.LLAMACPP, BackendName.MLX


@pytest.fixture
def two_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that two backends can serve, which none of ours is yet."""
    monkeypatch.setitem(backend_choice.BACKENDS_OF_FORMAT, ModelFormat.GGUF, (LLAMACPP, MLX))  # type: ignore[arg-type]


def row(backend: str, outcome: str, *, model_id: str = "m", by_probe: bool = False) -> CompatibilityRow:
    """One experience."""
    return CompatibilityRow(
        ts=1.0,
        model_id=model_id,
        backend=backend,
        backend_version="1",
        outcome=outcome,  # type: ignore[arg-type]
        reason="it crashed" if outcome == "fail" else None,
        metadata={BY_PROBE: "x"} if by_probe else {},
    )


def choose(
    *rows: CompatibilityRow, preference: tuple[str, ...] | None = None, allow_failed: bool = False
) -> tuple[Candidate, ...]:
    """The candidates for the model `m`."""
    return candidates("m", ModelFormat.GGUF, preference=preference, ledger=rows, allow_failed=allow_failed)


@pytest.mark.usefixtures("two_backends")
@pytest.mark.parametrize(
    ("preference", "order"),
    [
        (None, [LLAMACPP, MLX]),
        (("mlx",), [MLX, LLAMACPP]),
        (("vllm-mlx", "mlx-lm"), [MLX, LLAMACPP]),
        (("scripted", "mlx-lm", "gguf"), [MLX, LLAMACPP]),
        (("gguf",), [LLAMACPP, MLX]),
    ],
)
def test_preference_orders_what_can_serve_the_format(preference: tuple[str, ...] | None, order: list[BackendName]) -> None:
    """Old names count as what they mean; what cannot serve the format is no candidate; the rest keeps its order."""
    assert order == [candidate.backend for candidate in choose(preference=preference)]


@pytest.mark.usefixtures("two_backends")
def test_the_newest_word_decides() -> None:
    """A backend whose newest row is a fail comes last and is marked, one that has passed since is a candidate again."""
    failed = choose(row("llamacpp", "pass"), row("llamacpp", "fail"))
    passed = choose(row("llamacpp", "fail"), row("llamacpp", "pass"), row("mlx", "fail", model_id="other"))

    assert (Candidate(MLX), Candidate(LLAMACPP, "it crashed")) == failed
    assert (Candidate(LLAMACPP), Candidate(MLX)) == passed


@pytest.mark.usefixtures("two_backends")
def test_a_passed_probe_undoes_no_failure() -> None:
    """To be opened is less than to be served; a probe that failed counts like any failure."""
    assert "it crashed" == choose(row("llamacpp", "fail"), row("llamacpp", "pass", by_probe=True))[-1].failed
    assert "it crashed" == choose(row("llamacpp", "pass"), row("llamacpp", "fail", by_probe=True))[-1].failed


@pytest.mark.usefixtures("two_backends")
def test_when_all_have_failed_all_are_tried_again() -> None:
    """In order of preference; and so it is for who allows what failed."""
    all_failed = choose(row("mlx", "fail"), row("llamacpp", "fail"), preference=("mlx",))
    allowed = choose(row("llamacpp", "fail"), allow_failed=True)

    assert (Candidate(MLX), Candidate(LLAMACPP)) == all_failed
    assert (Candidate(LLAMACPP), Candidate(MLX)) == allowed


def test_a_load_says_which_or_takes_the_first() -> None:
    """A named backend is taken whatever the ledger says; one that cannot serve the format, or is none, is refused with why."""

    def load(wanted: str | None, format_: ModelFormat = ModelFormat.GGUF) -> str:
        ledger = [row("llamacpp", "fail")]
        return backend_for("m", format_, wanted=wanted, preference=None, ledger=ledger, allow_failed=False)

    assert [LLAMACPP] * 3 == [load(None), load("gguf"), load("llamacpp")]
    assert MLX == load("vllm-mlx", ModelFormat.MLX)
    with pytest.raises(Refusal, match="llamacpp can") as unsuited:
        load("mlx")
    with pytest.raises(Refusal, match="known are") as unknown:
        load("vllm")
    assert [ErrorCode.MODEL_UNSUPPORTED_BACKEND, ErrorCode.INVALID_VALUE] == [unsuited.value.code, unknown.value.code]


def test_every_format_has_a_backend_and_every_name_can_be_configured() -> None:
    """The tables are whole, and the schema's names are the protocol's."""
    assert set(ModelFormat) == set(BACKENDS_OF_FORMAT)
    assert set(BACKEND_NAMES) == set(BackendChoice.__args__)  # type: ignore[attr-defined]
