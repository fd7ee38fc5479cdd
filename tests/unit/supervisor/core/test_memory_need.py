"""What a load will need, from the shape of the model and the way it is loaded."""

import pytest

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.core.memory_need import MemoryNeed, ModelShape, memory_need

LLAMA_8B = ModelShape(
    weights_bytes=4_920_734_720,
    kv_elements_per_token=32 * 8 * 128 * 2,
    train_context_length=131_072,
    width=14_336,
    vocabulary_size=128_256,
)


def spec(**fields: int) -> ModelSpec:
    """A GGUF model to load."""
    return ModelSpec(model_id="m", path="/m.gguf", format=ModelFormat.GGUF, **fields)


@pytest.mark.parametrize(
    ("fields", "kv_bytes"),
    [
        ({"context_length": 8192, "slots": 1}, 1 << 30),
        ({"context_length": 8192, "slots": 4}, 4 << 30),
        ({"context_length": 8192, "slots": 1, "kv_bits": 8}, (1 << 30) * 34 // 64),
        ({"context_length": 8192, "slots": 1, "kv_bits": 4}, (1 << 30) * 18 // 64),
        ({"context_length": 0, "slots": 1}, 1 << 29),
        ({"context_length": 1_000_000, "slots": 1}, 16 << 30),
    ],
    ids=["one slot", "four slots", "8 bit", "4 bit", "the backend's own context", "more than it was trained for"],
)
def test_the_cache_is_context_times_slots_times_bits(fields: dict[str, int], kv_bytes: int) -> None:
    """An 8B llama keeps 128 KiB per token at 16 bits: 1 GiB for one slot of 8192 tokens, and so on from there."""
    need = memory_need(LLAMA_8B, spec(**fields))

    assert (need.weights_bytes, need.kv_bytes) == (4_920_734_720, kv_bytes)
    assert need.total_bytes == need.weights_bytes + need.kv_bytes + need.working_bytes
    assert 0 < need.working_bytes < 1 << 30


def test_a_longer_prefill_chunk_needs_more_working_memory() -> None:
    """What a step computes with grows with its batch; the facts of the file do not."""
    short, long = (memory_need(LLAMA_8B, spec(slots=1, prefill_chunk_tokens=tokens)) for tokens in (256, 8192))

    assert long.working_bytes - short.working_bytes > 1 << 30
    assert (long.weights_bytes, long.kv_bytes) == (short.weights_bytes, short.kv_bytes)


def test_a_measured_peak_corrects_the_working_memory_and_nothing_else() -> None:
    """Upwards and downwards; but weights and a cache that was never full are not taken back."""
    need = MemoryNeed(weights_bytes=100, kv_bytes=50, working_bytes=30)

    totals = {peak: need.corrected(peak).total_bytes for peak in (None, 250, 160, 20)}
    assert totals == {None: 180, 250: 250, 160: 160, 20: 150}


def test_an_operators_word_is_taken_and_corrected_upwards_only() -> None:
    """The whole is what was said, padded or cut; a peak below it changes nothing, one above it counts."""
    need = MemoryNeed(weights_bytes=100, kv_bytes=50, working_bytes=30)

    assert [need.said_to_be(said).total_bytes for said in (500, 120, 60)] == [500, 120, 60]
    assert (need.said_to_be(120).weights_bytes, need.said_to_be(120).kv_bytes) == (100, 20)
    assert [need.said_to_be(200).corrected(peak).total_bytes for peak in (None, 150, 260)] == [200, 200, 260]
