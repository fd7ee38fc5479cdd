"""Probes at their bounds, with real processes: how many there may be, how much memory one may take, and a stop."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import BackendName, ModelFormat
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.actions import Autopsy, Tell
from lmx_supervisor.core.backend_choice import Candidate
from lmx_supervisor.core.probes import ProbeCandidate, ProbeOrder
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.prober import Prober
from lmx_supervisor.runtime.run_dir import RunDir

MIB = 1024**2
SCRIPTED = Candidate(BackendName.SCRIPTED)


class Bench:
    """A prober, and everything it tells."""

    def __init__(self, directory: Path, run_dir: RunDir) -> None:
        self.directory = directory
        self.told: list[Tell] = []
        self.autopsies: list[Autopsy] = []
        specs = JobSpecs(directory, Config, os.environ)
        self.prober = Prober(specs, run_dir, tell=self.told.append, autopsy=self.autopsies.append, memory_bytes_max=200 * MIB)

    async def probe(
        self, script: str = "{}", *, seconds: float = 60.0, candidates: tuple[Candidate, ...] = (SCRIPTED,)
    ) -> list[ProbeCandidate]:
        """What comes of probing a scripted model."""
        path = self.directory / "m.script.yaml"
        path.write_text(script)
        spec = ModelSpec(model_id="m", path=str(path), format=ModelFormat.SCRIPT)
        order = ProbeOrder(model_id="m", timeout_seconds=seconds)
        return list((await self.prober.probe(order, spec, candidates)).candidates)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A prober with a run directory of its own."""
    run_dir = RunDir(tmp_path / "run")
    bench = Bench(tmp_path, run_dir)
    yield bench
    await bench.prober.close()
    run_dir.close()


async def test_a_probe_that_eats_memory(bench: Bench) -> None:
    """It is killed when it says that it has taken too much, and that is a failure of the model."""
    leak = f"{{when: probe, do: leak, bytes: {250 * MIB}, bytes_per_second: {400 * MIB}}}"
    (candidate,) = await bench.probe(f"faults: [{leak}, {{when: probe, do: stall}}]")

    assert candidate.outcome == "fail"
    assert candidate.reason is not None
    assert candidate.reason.startswith("model_probe_failed:it was killed: it took ")
    assert [tell.fields["is_evidence"] for tell in bench.told] == [True]
    assert bench.autopsies == []


async def test_what_is_passed_over(bench: Bench) -> None:
    """A backend that failed the last time is not tried, and says so; the next one is."""
    failed = Candidate(BackendName.MLX, failed="model_loader_crashed: it died")
    passed, skipped = await bench.probe(candidates=(SCRIPTED, failed))

    assert (passed.outcome, skipped.outcome) == ("pass", "unknown")
    assert skipped.reason is not None
    assert "it died" in skipped.reason
    assert "allow_unsupported_runtime" in skipped.reason
    assert [tell.fields["backend"] for tell in bench.told] == ["scripted"]


async def test_a_backend_that_is_not_there(bench: Bench) -> None:
    """Nothing is learned about the model, and nothing is recorded."""
    (candidate,) = await bench.probe(candidates=(Candidate("nothing"),))  # type: ignore[arg-type]

    assert candidate.outcome == "unknown"
    assert str(candidate.reason).startswith("model_unsupported_backend:")
    assert [tell.fields["is_evidence"] for tell in bench.told] == [False]


async def test_no_more_than_so_many(bench: Bench) -> None:
    """Two run and sixteen wait; one more is refused, and a stop ends all of them."""
    probes = limits.PROBES_AT_ONCE + limits.PROBES_WAITING_MAX
    stalling = [asyncio.create_task(bench.probe("faults: [{when: probe, do: stall}]")) for _ in range(probes)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await bench.probe()
    await bench.prober.close()
    ends = await asyncio.gather(*stalling, return_exceptions=True)

    assert refused.value.code is ErrorCode.RATE_LIMIT_EXCEEDED
    assert {ErrorCode.SHUTTING_DOWN} == {end.code for end in ends if isinstance(end, Refusal)}
    assert len(ends) == probes == sum(isinstance(end, Refusal) for end in ends)
    assert bench.autopsies == []
