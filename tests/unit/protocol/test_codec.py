"""Every message survives the wire, and nothing a peer sends can raise anything but `ProtocolViolation`."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_protocol import codec, limits, messages
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.messages import (
    BootSpec,
    Cancel,
    Finished,
    FromWorker,
    Goodbye,
    StepEvents,
    Text,
    Timing,
    ToWorker,
    Usage,
)
from lmx_protocol.states import FinishReason

INTEGERS = st.integers(-(2**63), 2**64 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: INTEGERS,
    str: TEXTS,
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may hold."""
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is Annotated:
        kind, (bounds,) = arguments[0], annotation.__metadata__
        return (st.floats if kind is float else st.integers)(bounds.ge, bounds.le)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if issubclass(annotation, msgspec.Struct):
        hints = get_type_hints(annotation, include_extras=True)
        return st.builds(annotation, **{name: values_of(hints[name]) for name in annotation.__struct_fields__})
    return st.sampled_from(list(annotation))


@given(values_of(FromWorker))
def test_every_message_of_a_worker_round_trips(message: FromWorker) -> None:
    """What a worker says arrives as it was said."""
    assert codec.decode_from_worker(codec.encode(message, bytes_max=limits.FRAME_BYTES_MAX_UP)) == message


@given(values_of(ToWorker))
def test_every_message_to_a_worker_round_trips(message: ToWorker) -> None:
    """What a worker is told arrives as it was told."""
    assert codec.decode_to_worker(codec.encode(message, bytes_max=limits.FRAME_BYTES_MAX_DOWN)) == message


@given(values_of(BootSpec))
def test_the_boot_specification_round_trips(spec: BootSpec) -> None:
    """Keys and endpoint come through the pipe unchanged."""
    assert codec.decode_boot_spec(codec.encode(spec, bytes_max=limits.FRAME_BYTES_MAX_DOWN)) == spec


def test_every_message_belongs_to_one_direction() -> None:
    """No tag is used twice, and every tagged struct of the module is in a union: none was forgotten."""
    tagged = [
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag is not None
    ]
    tags = [kind.__struct_config__.tag for kind in tagged]
    assert len(tags) == len(set(tags))
    unions = {
        *get_args(FromWorker),
        *get_args(ToWorker),
        *get_args(messages.AnyRequestEvent),
        *get_args(messages.AnyRequest),
        BootSpec,
    }
    assert set(tagged) == unions


@pytest.mark.parametrize("decode", [codec.decode_from_worker, codec.decode_to_worker, codec.decode_boot_spec])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1a" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        msgspec.msgpack.encode(["cxl", 5]),
        msgspec.msgpack.encode(["cxl"]),
        b"\x92\xa3cxl\xa2\xff\xfe",
        b"\x92\xa3end\xa2\xff\xfe",
        msgspec.msgpack.encode(["no such tag"]),
        msgspec.msgpack.encode({"a": 1}),
    ],
    ids=["empty", "reserved byte", "deep arrays", "deep maps", "huge count", "wrong type", "field missing", "bad UTF-8 down",
         "bad UTF-8 up", "unknown tag", "map"],
)  # fmt: skip
def test_broken_bytes_are_a_protocol_violation(decode: Any, data: bytes) -> None:
    """Each way that decoding can fail surfaces as the one exception callers handle."""
    with pytest.raises(ProtocolViolation):
        decode(data)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    """A worker gone mad can send what it likes."""
    for decode in (codec.decode_from_worker, codec.decode_to_worker, codec.decode_boot_spec):
        try:
            decode(data)
        except ProtocolViolation:
            continue


@given(values_of(FromWorker), st.data())
def test_damaged_messages_never_raise_anything_else(message: FromWorker, data: st.DataObject) -> None:
    """A valid message with one byte changed decodes to something or is refused."""
    damaged = bytearray(codec.encode(message, bytes_max=limits.FRAME_BYTES_MAX_UP))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode_from_worker(bytes(damaged))
    except ProtocolViolation:
        return


@given(values_of(ToWorker))
def test_the_wrong_direction_is_refused(message: ToWorker) -> None:
    """A worker that echoes what it was told is not believed."""
    with pytest.raises(ProtocolViolation):
        codec.decode_from_worker(codec.encode(message, bytes_max=limits.FRAME_BYTES_MAX_DOWN))


def test_an_oversized_message_is_refused_before_it_is_sent() -> None:
    """The limit is exact, and the error names the message and both sizes."""
    message = StepEvents(events=(Text(request_id="r", text="x" * 1000),))
    size = len(codec.encode(message, bytes_max=2000))
    assert codec.encode(message, bytes_max=size)
    with pytest.raises(ProtocolViolation, match=f"StepEvents of {size} bytes is over the limit of {size - 1}"):
        codec.encode(message, bytes_max=size - 1)


def test_a_newer_field_at_the_end_is_ignored() -> None:
    """Positional arrays tolerate additions, which is why the version rule, not luck, keeps versions apart."""
    longer = msgspec.msgpack.encode(["cxl", "r", "new"])
    assert codec.decode_to_worker(longer) == Cancel(request_id="r")


@pytest.mark.parametrize("message", [Goodbye(reason="x"), Text(request_id="r", text="x")], ids=["message", "event"])
def test_messages_cannot_be_changed_once_made(message: msgspec.Struct) -> None:
    """Threads can share them without copies."""
    with pytest.raises(AttributeError):
        message.reason = message.text = "changed"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "lie", [Usage(completion_tokens=-1), Usage(prompt_tokens=2**63 - 1), Timing(decode_seconds=float("nan"))]
)
def test_impossible_numbers_are_no_message(lie: Usage | Timing) -> None:
    """A lying worker is caught where its words are decoded, before anybody adds them up."""
    fields = {"usage": Usage(), "timing": Timing()} | {type(lie).__name__.lower(): lie}
    said = StepEvents(events=(Finished(request_id="r", reason=FinishReason.STOP, **fields),))
    with pytest.raises(ProtocolViolation):
        codec.decode_from_worker(codec.encode(said, bytes_max=limits.FRAME_BYTES_MAX_UP))
