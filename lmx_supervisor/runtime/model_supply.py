"""Getting models onto this machine: what a load of a model that is not here is told, confirmations, and plain downloads."""

import secrets
import time
from collections.abc import Callable

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobPlanned
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.model_ids import is_repository_id
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.downloads.confirmations import Confirmations
from lmx_supervisor.core.downloads.orders import DownloadOrder, DownloadView, ModelOnItsWay
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.runtime.downloader import Downloader
from lmx_supervisor.runtime.hub_look import HubLooks

_A_DOWNLOAD_WOULD_HELP = (ErrorCode.DOWNLOADS_DISABLED, ErrorCode.MODEL_INCOMPLETE)
_GIGABYTE = 1000**3


class ModelSupply:
    """One service's. Create it on a running loop."""

    def __init__(self, config: Callable[[], Config], catalog: Catalog, downloader: Downloader, looks: HubLooks) -> None:
        self._config = config
        self._catalog = catalog
        self._downloader = downloader
        self._looks = looks
        self._confirmations = Confirmations()

    async def instead_of(self, refusal: Refusal, original: LoadOrder) -> ModelOnItsWay:
        """What a load that was refused comes to when a download would help. Raises `Refusal`, which may be the same one."""
        model_id = original.model_id
        may_download = self._config().security.downloads_enabled
        if refusal.code is ErrorCode.MODEL_NOT_FOUND and original.auto_download and original.path is None and not may_download:
            text = f"{refusal.message} Downloads are disabled, too: see security.downloads_enabled."
            raise Refusal(ErrorCode.DOWNLOADS_DISABLED, text, param="auto_download") from refusal
        is_fetchable = original.path is None and is_repository_id(model_id) and not self._catalog.is_named(model_id)
        if refusal.code not in _A_DOWNLOAD_WOULD_HELP or not is_fetchable or not may_download:
            raise refusal
        order = msgspec.structs.replace(original, auto_download=False)
        active = self._downloader.active(model_id)
        if active is not None:
            self._downloader.follow(active.download_id, order)
            return _downloading(order, self._downloader.view(active.download_id))
        wants_it_now = original.auto_download
        plan = await self._look(DownloadOrder(repo_id=model_id), param="model_id")
        return self._start(order, plan.missing_bytes) if wants_it_now else self._offer(order, plan.missing_bytes, refusal)

    async def confirm(self, token: str) -> ModelOnItsWay:
        """Start the download that was offered with this token. Raises `Refusal`."""
        refuse_when_disabled(self._config())
        offer = self._confirmations.take(token, time.monotonic())
        return self._start(offer.order, offer.estimated_bytes)

    async def download(self, order: DownloadOrder) -> DownloadView:
        """Start a download, or join the one that is the same. Raises `Refusal`."""
        refuse_when_disabled(self._config())
        if not is_repository_id(order.repo_id):
            text = f"'{order.repo_id}' is no repository of the hub; one looks like owner/name."
            raise Refusal(ErrorCode.INVALID_VALUE, text, param="repo_id")
        active = self._downloader.active(order.repo_id)
        plan = await self._look(order, param="repo_id") if active is None else None
        return self._downloader.want(order, estimated_bytes=plan.total_bytes if plan is not None else None)

    async def _look(self, order: DownloadOrder, *, param: str) -> JobPlanned:
        try:
            return await self._looks.look(order)
        except Refusal as refusal:
            raise Refusal(
                refusal.code, refusal.message, param=param, retry_after_seconds=refusal.retry_after_seconds
            ) from refusal

    def _start(self, order: LoadOrder, estimated_bytes: int | None) -> ModelOnItsWay:
        repository = DownloadOrder(repo_id=order.model_id)
        return _downloading(order, self._downloader.want(repository, estimated_bytes=estimated_bytes, then_load=order))

    def _offer(self, order: LoadOrder, missing_bytes: int, refusal: Refusal) -> ModelOnItsWay:
        token = f"dl-{secrets.token_urlsafe(24)}"
        self._confirmations.offer(token, order, missing_bytes, time.monotonic())
        is_repair = refusal.code is ErrorCode.MODEL_INCOMPLETE
        what = f"is not whole ({refusal.message})" if is_repair else "is not on this machine"
        return ModelOnItsWay(
            status="download_required",
            model_id=order.model_id,
            estimated_size_bytes=missing_bytes,
            message=f"Model '{order.model_id}' {what}. {missing_bytes / _GIGABYTE:.2f} GB would be downloaded: confirm with"
            " POST /admin/models/load/confirm, or load it with auto_download.",
            confirmation_token=token,
        )


def being_deleted(model_id: str, param: str) -> Refusal:
    """What is told to whoever wants a model that is about to be gone."""
    return Refusal(ErrorCode.MODEL_IN_USE, f"Model '{model_id}' is being deleted; wait until that is done.", param=param)


def refuse_when_disabled(config: Config) -> None:
    """Raise `Refusal` DOWNLOADS_DISABLED when nothing may be downloaded."""
    if not config.security.downloads_enabled:
        text = "Downloads are disabled: set security.downloads_enabled to true, or put the model on this machine yourself."
        raise Refusal(ErrorCode.DOWNLOADS_DISABLED, text)


def _downloading(order: LoadOrder, view: DownloadView) -> ModelOnItsWay:
    return ModelOnItsWay(
        status="downloading",
        model_id=order.model_id,
        estimated_size_bytes=view.total_bytes,
        message=f"Model '{order.model_id}' is being downloaded; it is loaded when it has arrived.",
        download_id=view.download_id,
    )
