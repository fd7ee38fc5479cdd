"""What jobs are started with: the order, the configuration in force, and what downloads need of our environment."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.jobs import FetchModel, JobSpec, ProbeModel, QuantizeModel, Work
from lmx_protocol.messages import ModelSpec
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.catalog.staging_area import staging_of
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.quantization.job import Task

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_VARIABLES = (
    *_SECRETS, "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "all_proxy", "no_proxy",
)  # fmt: skip
"""They travel in the specification, because some hold keys."""

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Of every job but a download: it works with what is here."""

_LOOK_ATTEMPTS_MAX = 2


def hub_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys to the hub, which must not appear in anything that is written down."""
    return tuple(environment[name] for name in _SECRETS if environment.get(name))


class JobSpecs:
    """Writes them."""

    def __init__(self, models_directory: Path, config: Callable[[], Config], environment: Mapping[str, str]) -> None:
        self._models_directory = models_directory
        self._config = config
        self._environment = {name: environment[name] for name in _VARIABLES if environment.get(name)}

    def fetch(self, name: str, order: DownloadOrder) -> JobSpec:
        """A job of this name that carries the order out."""
        return self._download(name, order, only_look=False, attempts_max=self._config().downloads.attempts_max)

    def look(self, name: str, order: DownloadOrder) -> JobSpec:
        """A job that says what the order would come to. Somebody waits for it, so it is less patient."""
        return self._download(name, order, only_look=True, attempts_max=_LOOK_ATTEMPTS_MAX)

    def probe(self, name: str, backend: str, spec: ModelSpec, memory_bytes_max: int) -> JobSpec:
        """A job that opens a model with a backend."""
        return self._spec(name, ProbeModel(backend=backend, spec=spec, memory_bytes_max=memory_bytes_max), _OFFLINE)

    def quantize(self, name: str, task: Task) -> JobSpec:
        """A job that writes a quantized copy."""
        work = QuantizeModel(
            model_id=task.source_model,
            source=task.source_path,
            staging=task.staging_path,
            bits=task.bits,
            group_size=task.group_size,
            mode=task.mode,
            disk_reserve_bytes=self._config().downloads.disk_reserve_bytes,
        )
        return self._spec(name, work, _OFFLINE)

    def _download(self, name: str, order: DownloadOrder, *, only_look: bool, attempts_max: int) -> JobSpec:
        config = self._config()
        work = FetchModel(
            repo_id=order.repo_id,
            revision=order.revision,
            allow_patterns=order.allow_patterns,
            ignore_patterns=order.ignore_patterns,
            target=str(self._models_directory / order.repo_id),
            staging=str(staging_of(self._models_directory, order.repo_id)),
            only_look=only_look,
            disk_reserve_bytes=config.downloads.disk_reserve_bytes,
            stall_seconds=config.downloads.stall_seconds,
            attempts_max=attempts_max,
            retry_initial_seconds=config.downloads.retry_initial_seconds,
            retry_max_seconds=config.downloads.retry_max_seconds,
        )
        return self._spec(name, work, self._environment)

    def _spec(self, name: str, work: Work, environment: dict[str, str]) -> JobSpec:
        return JobSpec(
            protocol=PROTOCOL_VERSION,
            job=name,
            supervisor_pid=os.getpid(),
            beat_interval_seconds=limits.JOB_BEAT_SECONDS,
            c_watchdog_seconds=self._config().supervision.c_watchdog_seconds,
            environment=environment,
            work=work,
        )
