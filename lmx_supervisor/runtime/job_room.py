"""All jobs of one service: what starts them, and how they end together."""

import os
from collections.abc import Sequence
from pathlib import Path

from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.downloads.state import Download
from lmx_supervisor.core.quantization.job import Job
from lmx_supervisor.runtime.compatibility import CompatibilityRegistry
from lmx_supervisor.runtime.crash_recorder import CrashRecorder
from lmx_supervisor.runtime.downloader import Downloader
from lmx_supervisor.runtime.hub_look import HubLooks
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.live_config import LiveConfig
from lmx_supervisor.runtime.local_jobs import LocalJobs
from lmx_supervisor.runtime.prober import Prober
from lmx_supervisor.runtime.quantizer import Quantizer
from lmx_supervisor.runtime.run_dir import RunDir
from lmx_supervisor.runtime.supervisor import Supervisor


class JobRoom:
    """Create it on a running loop; end it with `close`."""

    def __init__(
        self,
        *,
        home: Path,
        models_directory: Path,
        copies: Path,
        run_dir: RunDir,
        live: LiveConfig,
        supervisor: Supervisor,
        recorder: CrashRecorder,
        catalog: Catalog,
        registry: CompatibilityRegistry,
        downloads: Sequence[Download],
        quantize_jobs: Sequence[Job],
    ) -> None:
        """`downloads`, `quantize_jobs`: those of an earlier life. `copies`: where quantized copies lie."""

        def tell(what: Tell) -> None:
            supervisor.tell(what.kind, alarming=what.alarming, **what.fields)

        specs = JobSpecs(models_directory, lambda: live.config, os.environ)
        self.looks = HubLooks(specs, run_dir)
        self.downloader = Downloader(
            home=home,
            models_directory=models_directory,
            run_dir=run_dir,
            specs=specs,
            config=lambda: live.config,
            tell=tell,
            autopsy=recorder.record,
            known=list(downloads),
        )
        self._prober = Prober(specs, run_dir, tell=tell, autopsy=recorder.record)
        self.quantizer = Quantizer(
            home=home,
            run_dir=run_dir,
            specs=specs,
            config=lambda: live.config,
            is_shedding=lambda: supervisor.is_shedding,
            tell=tell,
            autopsy=recorder.record,
            known=list(quantize_jobs),
        )
        self.jobs = LocalJobs(
            config=lambda: live.config,
            catalog=catalog,
            registry=registry,
            prober=self._prober,
            quantizer=self.quantizer,
            copies=copies,
        )
        """What the gateway may ask for."""

    async def close(self) -> None:
        """End all of them. Returns when no process is left."""
        await self.looks.close()
        await self._prober.close()
        await self.quantizer.close()
        await self.downloader.close()
