"""Look-ups of models that requests ask for: one for all who ask, and what is told instead."""

import asyncio

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.core.events import LoadWanted
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.demands import Demands


class Demanded:
    """Where the result of a look-up goes."""

    def __init__(self) -> None:
        self.loads: list[LoadWanted] = []

    def demand(self, load: LoadWanted) -> None:
        self.loads.append(load)


class Disk:
    """Finds `name` and `name.gguf` when it is let go; whatever else is refused in the catalog's words."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []
        self.refusal = Refusal(ErrorCode.DOWNLOADS_DISABLED, "it is not here", param="model_id")

    async def find(self, name: str) -> LoadWanted:
        self.asked.append(name)
        await self.go.wait()
        if name.removesuffix(".gguf") != "name":
            raise self.refusal
        return LoadWanted("", ModelSpec(model_id="name", path="/name.gguf", format=ModelFormat.GGUF), "llamacpp")


async def test_many_who_ask_at_once_are_one_look_up() -> None:
    """And one that goes away meanwhile does not end it for the others, who learn the model's id."""
    disk, demanded = Disk(), Demanded()
    demands = Demands(demanded, disk.find, set())  # type: ignore[arg-type]  # all that is used of a supervisor
    asking = [asyncio.create_task(demands.demand("name.gguf")) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    disk.go.set()

    assert ["name", "name"] == await asyncio.gather(*asking[1:])
    assert (["name.gguf"], ["name"]) == (disk.asked, [load.spec.model_id for load in demanded.loads])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (ErrorCode.DOWNLOADS_DISABLED, ErrorCode.MODEL_NOT_FOUND),
        (ErrorCode.INVALID_VALUE, ErrorCode.MODEL_NOT_FOUND),
        (ErrorCode.MODEL_NOT_FOUND, ErrorCode.MODEL_NOT_FOUND),
        (ErrorCode.MODEL_INCOMPLETE, ErrorCode.MODEL_INCOMPLETE),
        (ErrorCode.OVERLOADED, ErrorCode.OVERLOADED),
    ],
)
async def test_what_cannot_be_found_is_told_in_a_requests_terms(code: ErrorCode, told: ErrorCode) -> None:
    """A model that is not here is a 404 of the field `model`, whatever a load would have to do about it; the rest stays."""
    disk, demanded = Disk(), Demanded()
    disk.refusal = Refusal(code, "in its words", param="model_id", retry_after_seconds=3)
    disk.go.set()
    with pytest.raises(Refusal) as caught:
        await Demands(demanded, disk.find, set()).demand("other")  # type: ignore[arg-type]  # as above

    refusal = caught.value
    assert (told, "in its words", "model", 3) == (refusal.code, refusal.message, refusal.param, refusal.retry_after_seconds)
    assert [] == demanded.loads


async def test_a_model_that_is_being_deleted_is_not_asked_for() -> None:
    """Its files may be half gone when the load would begin."""
    disk, demanded = Disk(), Demanded()
    disk.go.set()
    with pytest.raises(Refusal) as caught:
        await Demands(demanded, disk.find, {"name"}).demand("name")  # type: ignore[arg-type]  # as above

    assert (ErrorCode.MODEL_IN_USE, []) == (caught.value.code, demanded.loads)
