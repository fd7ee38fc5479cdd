"""The configuration in force, and reading it anew while the service runs."""

import asyncio
import logging
from collections.abc import Callable

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.load import LoadedConfig, read_again
from lmx_supervisor.config.reloading import Reload, plan_reload
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.refusal import Refusal

log = logging.getLogger("lmx.config")


class LiveConfig:
    """Holds one configuration at a time. Create it on a running loop."""

    def __init__(self, loaded: LoadedConfig, apply: Callable[[Config], None]) -> None:
        """`apply` hands a new configuration to those that do not look here each time; on the loop, and it must not fail."""
        self._loaded = loaded
        self._apply = apply
        self._calls = DiskCalls(at_once=1, seconds=limits.CONFIG_READ_SECONDS)
        self._one_at_a_time = asyncio.Lock()
        _log_remarks(loaded)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._loaded.config

    async def reload(self) -> Reload:
        """Read the same file, variables and flags as the start did, and put in force what can change now.

        Raises:
            Refusal: INVALID_VALUE with file, key and reason when it cannot be used; nothing has changed then.
        """
        async with self._one_at_a_time:
            running = self._loaded
            try:
                planned = plan_reload(running, await self._calls.run(lambda: read_again(running)))
            except ConfigError as error:
                message = f"Nothing was changed, because the configuration cannot be used: {error}."
                raise Refusal(ErrorCode.INVALID_VALUE, message, param=error.key) from error
            self._loaded = planned.loaded
            self._apply(planned.loaded.config)
            _log_remarks(planned.loaded)
            return planned


def _log_remarks(loaded: LoadedConfig) -> None:
    for remark in loaded.remarks:
        log.warning("config_remark", extra={"text": remark})
