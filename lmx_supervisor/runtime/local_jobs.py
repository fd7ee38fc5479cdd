"""Probes and quantized copies as the gateway sees them: the catalog's word on a model, then the process that works on it.

Satisfies `core.service.Jobs`.
"""

import secrets
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.catalog import Catalog, CatalogEntry
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.quantized import check_output, check_room, staging_for
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.backend_choice import candidates
from lmx_supervisor.core.probes import ProbeOrder, ProbeReport
from lmx_supervisor.core.quantization.job import Task
from lmx_supervisor.core.quantization.orders import QuantizeJob, QuantizeOrder, copy_name
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.compatibility import CompatibilityRegistry
from lmx_supervisor.runtime.prober import Prober
from lmx_supervisor.runtime.quantizer import Quantizer

_JOB_ID_BYTES = 6
_HOW_TO_QUANTIZE = {
    ModelFormat.GGUF: "a GGUF file, which mlx-lm cannot read: quantize it with llama.cpp's llama-quantize, or start from the"
    " original model's safetensors",
    ModelFormat.SCRIPT: "a scripted model, which has no weights",
}
_WIDEST_WEIGHT_BITS = 32


class LocalJobs:
    """One host's. Create it on a running loop."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        catalog: Catalog,
        registry: CompatibilityRegistry,
        prober: Prober,
        quantizer: Quantizer,
        copies: Path,
    ) -> None:
        """`copies`: where a copy lies if nobody says where."""
        self._config = config
        self._catalog = catalog
        self._registry = registry
        self._prober = prober
        self._quantizer = quantizer
        self._copies = copies
        self._disk = DiskCalls(at_once=limits.CATALOG_CALLS_MAX, seconds=limits.CATALOG_SECONDS)
        self.being_deleted: Collection[str] = ()
        """Models that no job may begin with."""

    async def probe(self, order: ProbeOrder) -> ProbeReport:
        """Which backends can open a model. Raises `Refusal`."""
        entry = await self._find(order.model_id, param="model_id")
        models = self._config().models
        spec = ModelSpec(
            model_id=entry.model_id,
            path=entry.path,
            format=entry.format,
            context_length=models.context_length,
            gpu_layers=models.gpu_layers,
            threads=models.threads,
        )
        choice = candidates(
            entry.model_id,
            entry.format,
            preference=models.backend_preference_order,
            ledger=self._registry.rows(),
            allow_failed=order.allow_failed,
        )
        return await self._prober.probe(order, spec, choice)

    async def quantize(self, order: QuantizeOrder) -> QuantizeJob:
        """Have a quantized copy made. Raises `Refusal`."""
        entry = await self._find(order.source_model, param="source_model")
        if entry.format is not ModelFormat.MLX:
            text = f"'{entry.model_id}' is {_HOW_TO_QUANTIZE[entry.format]}."
            raise Refusal(ErrorCode.NOT_SUPPORTED, text, param="source_model")
        name = copy_name(entry.model_id, order.bits, order.group_size, order.mode)
        wanted = order.output_path if order.output_path is not None else str(self._copies / name)
        output = await self._disk.run(partial(self._check_place, wanted, entry, order))
        if entry.model_id in self.being_deleted:
            text = f"Model '{entry.model_id}' is being deleted; there will be nothing to quantize."
            raise Refusal(ErrorCode.MODEL_IN_USE, text, param="source_model")
        job_id = secrets.token_hex(_JOB_ID_BYTES)
        task = Task(
            source_model=entry.model_id,
            source_path=entry.path,
            output_path=str(output),
            staging_path=str(staging_for(output, job_id)),
            bits=order.bits,
            group_size=order.group_size,
            mode=order.mode,
            model_id=self._catalog.id_of_place(output),
        )
        return self._quantizer.want(task, job_id)

    def quantize_jobs(self) -> list[QuantizeJob]:
        """Every job that is remembered, the newest first."""
        return self._quantizer.views()

    def find_quantize_job(self, job_id: str) -> QuantizeJob:
        """One of them. Raises `Refusal`."""
        return self._quantizer.view(job_id)

    def cancel_quantize_job(self, job_id: str) -> QuantizeJob:
        """Have it ended. Raises `Refusal`."""
        return self._quantizer.cancel(job_id)

    def refuse_if_in_use(self, model_id: str, directories: Collection[Path]) -> None:
        """Raise `Refusal` MODEL_IN_USE while a job reads what lies in one of them, or the model of that id."""
        for job_id, task in self._quantizer.tasks():
            source = Path(task.source_path)
            if model_id == task.source_model or not {source, *source.parents}.isdisjoint(directories):
                text = f"Model '{model_id}' is being quantized; wait for job {job_id}, or cancel it first."
                raise Refusal(ErrorCode.MODEL_IN_USE, text, param="model_id")

    async def _find(self, model_id: str, *, param: str) -> CatalogEntry:
        """The whole model of this id. Raises `Refusal`; one that is not here is not found, whether downloads are on or off."""
        try:
            return await self._catalog.resolve(model_id)
        except Refusal as refusal:
            code = ErrorCode.MODEL_NOT_FOUND if refusal.code is ErrorCode.DOWNLOADS_DISABLED else refusal.code
            raise Refusal(code, refusal.message, param=param, retry_after_seconds=refusal.retry_after_seconds) from refusal

    def _check_place(self, wanted: str, entry: CatalogEntry, order: QuantizeOrder) -> Path:
        """Blocks on the disk."""
        output = check_output(wanted, Path(entry.path))
        # The process knows it to the byte, once it has opened the model.
        least_bytes = entry.shape.weights_bytes * order.bits // _WIDEST_WEIGHT_BITS
        check_room(output, least_bytes, self._config().downloads.disk_reserve_bytes)
        return output
