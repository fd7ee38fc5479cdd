"""From an order to a load: which files, which backend, and which settings, the supervisor being told the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import BackendName
from lmx_supervisor.catalog.catalog import Catalog, CatalogEntry
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.backend_choice import backend_for
from lmx_supervisor.core.events import LoadWanted
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile, ProfileLayers, model_spec
from lmx_supervisor.core.memory_need import MemoryNeed, memory_need
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import CompatibilityRow, LoadOrder, LoadOutcome
from lmx_supervisor.core.slot import COMING, SERVING
from lmx_supervisor.core.trial import Trial
from lmx_supervisor.runtime.state_file import SavedModel, plain_spec
from lmx_supervisor.runtime.supervisor import Supervisor

ProfileSource = Callable[[str, str], LoadProfile]
"""What a model (id), loaded on a backend, is tuned by, as far as the source knows; asked for every load."""


class ModelLoader:
    """One service's."""

    def __init__(
        self,
        config: Callable[[], Config],
        catalog: Catalog,
        supervisor: Supervisor,
        ledger: Callable[[], Sequence[CompatibilityRow]],
    ) -> None:
        """`ledger`: what was learned about models and backends, the newest last."""
        self._config = config
        self._ledger = ledger
        self._catalog = catalog
        self._supervisor = supervisor
        self.tuned_profile: ProfileSource = _knows_nothing
        """The records of autotunes."""
        self.preset_profile: ProfileSource = _knows_nothing
        """The presets."""

    async def load(
        self,
        order: LoadOrder,
        *,
        at_start: bool,
        unasked: bool = False,
        replaces: bool = False,
        trial: Trial | None = None,
    ) -> LoadOutcome:
        """Have a model served as ordered.

        Args:
            order: what is wanted.
            at_start: keep trying even if the first load fails.
            unasked: nobody ordered it.
            replaces: load anew even what is loaded already.
            trial: only to try these settings; what was tuned before is left out.

        Raises:
            Refusal: it cannot be.
        """
        worker = self._supervisor.view().worker(order.model_id)
        is_there = worker is not None and worker.state in SERVING | COMING
        if worker is not None and is_there and order.path is None and not replaces:
            # Its files may be gone by now; that is no reason to refuse what is served already. The core decides what follows.
            layers = self._layers(order, worker.backend)
            spec = model_spec(worker.model_id, worker.path, worker.format, layers.merge(), self._config().models)
            return await self._supervisor.load(
                spec, worker.backend, at_start=at_start, keep_alive_seconds=order.keep_alive_seconds, profile=layers
            )
        found = await self._found(order, is_trial=trial is not None)
        return await self._supervisor.load(
            found.spec,
            found.backend,
            digest=found.digest,
            at_start=at_start,
            unasked=unasked,
            force=order.allow_unsupported_runtime,
            size_bytes=found.size_bytes,
            need=found.need,
            keep_alive_seconds=order.keep_alive_seconds,
            profile=found.profile,
            replaces=replaces,
            trial=trial,
        )

    async def for_demand(self, model_id: str) -> LoadWanted:
        """How a model of this machine would be loaded for a request. Raises `Refusal`."""
        found = await self._found(LoadOrder(model_id=model_id))
        return LoadWanted(
            order_id="",
            spec=found.spec,
            backend=found.backend,
            digest=found.digest,
            size_bytes=found.size_bytes,
            need=found.need,
            profile=found.profile,
        )

    async def _found(self, order: LoadOrder, *, is_trial: bool = False) -> "_Found":
        if order.path is None:
            entry = await self._catalog.resolve(order.model_id)
        else:
            entry = await self._catalog.register(order.model_id, order.path)
        backend = self._backend(entry, order.backend, allow_failed=order.allow_unsupported_runtime)
        layers = self._layers(order, backend, is_trial=is_trial)
        profile = layers.merge()
        spec = model_spec(entry.model_id, entry.path, entry.format, profile, self._config().models)
        _refuse_what_the_backend_cannot(spec, backend)
        digest = await self._catalog.digest(spec, backend)
        return _Found(spec, backend, digest, entry.size_bytes, _need(entry, spec, profile), layers)

    async def backend_of(self, model_id: str) -> str:
        """What a model that is on this machine would be loaded on. Raises `Refusal`."""
        return self._backend(await self._catalog.resolve(model_id), None, allow_failed=False)

    async def restore(self, model_id: str, saved: SavedModel | None) -> LoadOutcome:
        """Load a model the way it was loaded before; by its id alone where only that is known. Raises `Refusal`."""
        if saved is None:
            return await self.load(LoadOrder(model_id=model_id), at_start=True)
        spec = plain_spec(saved.spec)
        entry = await self._catalog.look_at(model_id, spec.path)
        return await self._supervisor.load(
            spec,
            saved.backend,
            digest=await self._catalog.digest(spec, saved.backend),
            at_start=True,
            size_bytes=entry.size_bytes,
            need=_need(entry, spec, saved.profile.merge()),
            keep_alive_seconds=saved.keep_alive_seconds,
            profile=saved.profile,
        )

    def _backend(self, entry: CatalogEntry, wanted: str | None, *, allow_failed: bool) -> str:
        return backend_for(
            entry.model_id,
            entry.format,
            wanted=wanted,
            preference=self._config().models.backend_preference_order,
            ledger=self._ledger(),
            allow_failed=allow_failed,
        )

    def _layers(self, order: LoadOrder, backend: str, *, is_trial: bool = False) -> ProfileLayers:
        return ProfileLayers(
            explicit=order.profile,
            tuned=NOTHING if is_trial else self.tuned_profile(order.model_id, backend),
            preset=self.preset_profile(order.model_id, backend),
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A model of this machine, and how it is loaded."""

    spec: ModelSpec
    backend: str
    digest: str
    size_bytes: int
    need: MemoryNeed
    profile: ProfileLayers


def _knows_nothing(_: str, __: str) -> LoadProfile:
    return NOTHING


def _need(entry: CatalogEntry, spec: ModelSpec, profile: LoadProfile) -> MemoryNeed:
    need = memory_need(entry.shape, spec)
    return need if profile.memory_estimate_gb is None else need.said_to_be(int(profile.memory_estimate_gb * 1024**3))


def _refuse_what_the_backend_cannot(spec: ModelSpec, backend: str) -> None:
    if spec.kv_bits != 16 and backend != BackendName.LLAMACPP:
        param = "performance_overrides.kv_bits"
        text = f"{param}: {backend} keeps keys and values at 16 bits only; leave it out, here or in the model's preset."
        raise Refusal(ErrorCode.NOT_SUPPORTED, text, param=param)
