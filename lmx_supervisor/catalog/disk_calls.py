"""Disk work with a deadline, off the event loop.

Daemon threads of our own, not asyncio's pool: a call that hangs on a dead network disk would keep the pool's thread for ever,
and with it the end of the process.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal

Result = TypeVar("Result")


class NoThreadRefusal(Refusal):
    """The system has no thread left for a call: the disk was not even asked."""

    def __init__(self) -> None:
        message = "The system cannot start another thread. Raise its limit of processes, then try again."
        super().__init__(ErrorCode.OVERLOADED, message, retry_after_seconds=limits.DISK_RETRY_AFTER_SECONDS)


class DiskCalls:
    """Runs blocking calls, `at_once` at a time; a hung one keeps its place, so that a dead disk cannot pile up threads."""

    def __init__(self, *, at_once: int, seconds: float) -> None:
        self._seconds = seconds
        self._places = asyncio.Semaphore(at_once)

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work()`, or its exception.

        Raises:
            Refusal: OVERLOADED when the disk did not answer in time (the call goes on in its thread and its result is dropped).
            NoThreadRefusal: OVERLOADED too.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
                return await self._start(work)
        except TimeoutError:
            message = f"The disk did not answer within {self._seconds:g} seconds. Check the models directory, then try again."
            raise Refusal(ErrorCode.OVERLOADED, message, retry_after_seconds=limits.DISK_RETRY_AFTER_SECONDS) from None

    def _start(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def finish(result: Result | None, error: BaseException | None) -> None:
            self._places.release()
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only where Result allows it

        def call() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # it belongs to the caller, whatever it is
                error = raised
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        try:
            threading.Thread(target=call, name="disk-call", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise NoThreadRefusal from error
        return future
