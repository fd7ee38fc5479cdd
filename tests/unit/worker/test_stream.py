"""Numbering, coalescing and credit of one request, with time as an argument."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_protocol.credit import output_bytes
from lmx_protocol.limits import CREDIT_BYTES, FLUSH_MILLISECONDS, FLUSH_TOKENS, STALLED_FRAMES_MAX
from lmx_protocol.messages import (
    Alternative,
    AnyRequestEvent,
    Cancelled,
    Finished,
    Prefill,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCallPart,
    Usage,
    Vectors,
)
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import ToolCallDelta
from lmx_worker.stream import RequestStream

FLUSH_SECONDS = FLUSH_MILLISECONDS / 1000
FINISHED = Finished(request_id="r", reason=FinishReason.STOP, usage=Usage(completion_tokens=7))


def stream(frames: int = 64, bytes_: int = 1000) -> RequestStream:
    """A stream with some credit."""
    return RequestStream("r", credit_frames=frames, credit_bytes=bytes_)


def text_of(events: list[AnyRequestEvent]) -> str:
    """The text of these events."""
    return "".join(event.text for event in events if isinstance(event, Text))


def test_first_text_leaves_at_once() -> None:
    """The first token is never held back for merging."""
    out = stream()
    out.add_text("a", 1, now=0.0)

    assert [Text(request_id="r", seq=0, text="a")] == out.take(0.0)


def test_fast_tokens_are_merged_until_the_interval() -> None:
    """Tokens that come faster than the flush interval share a frame, which says when it is due."""
    out = stream()
    out.add_text("a", 1, now=0.0)
    out.take(0.0)
    out.add_text("b", 1, now=0.001)
    out.add_text("c", 1, now=0.002)

    assert [] == out.take(0.002)
    assert FLUSH_SECONDS == out.flush_at
    assert [Text(request_id="r", seq=1, text="bc", tokens=2)] == out.take(FLUSH_SECONDS)
    assert out.flush_at is None


def test_slow_tokens_are_not_delayed() -> None:
    """A model slower than the flush interval gets a frame per token."""
    out = stream()
    for index in range(5):
        out.add_text("x", 1, now=index * 1.0)

        assert 1 == len(out.take(index * 1.0))


def test_many_tokens_flush_before_the_interval() -> None:
    """Enough tokens make a frame although no time has passed."""
    out = stream()
    out.add_text("a", 1, now=0.0)
    out.take(0.0)
    for _ in range(FLUSH_TOKENS):
        out.add_text("b", 1, now=0.0)

    assert [Text(request_id="r", seq=1, text="b" * FLUSH_TOKENS, tokens=FLUSH_TOKENS)] == out.take(0.0)


def test_tokens_without_text_are_counted_with_the_next_text() -> None:
    """Half a character is no event, but its token is not forgotten."""
    out = stream()
    out.add_text("", 1, now=0.0)

    assert [] == out.take(0.0)

    out.add_text("é", 1, now=0.1)

    assert [Text(request_id="r", seq=0, text="é", tokens=2)] == out.take(0.1)


def test_text_waits_for_credit_and_the_end_waits_for_text() -> None:
    """Out of credit nothing leaves, not even the end, until a grant; then everything leaves in order."""
    out = stream(frames=1)
    out.add_text("a", 1, now=0.0)
    out.take(0.0)
    out.add_text("b", 1, now=1.0)
    out.end(FINISHED)

    assert [] == out.take(1.0)
    assert out.ending and not out.ended

    out.grant(1, 10)
    text, finished = out.take(1.0)

    assert Text(request_id="r", seq=1, text="b") == text
    assert (2, FINISHED.usage) == (finished.seq, finished.usage)
    assert out.ended


def test_prefill_needs_no_credit() -> None:
    """Progress of the prompt is told without any credit."""
    out = stream(frames=0, bytes_=0)
    out.add_prefill(done_tokens=1, prompt_tokens=2, cached_tokens=0)

    assert [Prefill(request_id="r", seq=0, done_tokens=1, prompt_tokens=2)] == out.take(0.0)


def test_end_flushes_text_that_was_held_for_merging() -> None:
    """The end does not make its text wait for the flush interval."""
    out = stream()
    out.add_text("a", 1, now=0.0)
    out.take(0.0)
    out.add_text("b", 1, now=0.0)
    out.end(FINISHED)

    assert ["Text", "Finished"] == [type(event).__name__ for event in out.take(0.0)]


def test_text_is_cut_to_the_byte_credit_between_characters() -> None:
    """A frame never costs more bytes than are granted, and never breaks a character."""
    out = stream(bytes_=5)
    out.add_text("ééé", 3, now=0.0)

    assert [Text(request_id="r", seq=0, text="éé", tokens=3)] == out.take(0.0)

    out.grant(0, 1)

    assert [Text(request_id="r", seq=1, text="é", tokens=0)] == out.take(0.0)


def test_one_frame_is_never_larger_than_the_window() -> None:
    """However much is granted, one event carries at most a window of text, so that a frame of many fits the frame limit."""
    out = stream(bytes_=10 * CREDIT_BYTES)
    out.add_text("x" * (CREDIT_BYTES + 1), 1, now=0.0)

    assert [CREDIT_BYTES, 1] == [len(event.text) for event in out.take(0.0) if isinstance(event, Text)]


def test_stalls_after_a_bounded_number_of_frames_and_recovers() -> None:
    """Text without credit is merged up to the bound, then the stream asks for a pause; one grant is enough to recover."""
    out = stream(frames=0)
    for index in range(STALLED_FRAMES_MAX):
        assert not out.stalled
        out.add_text("x", 1, now=float(index))
        out.take(float(index))

    assert out.stalled

    out.grant(1, 0)

    assert "x" * STALLED_FRAMES_MAX == text_of(out.take(100.0))
    assert not out.stalled


def test_waiting_without_new_text_does_not_stall() -> None:
    """Only text counts towards the stall, not the time for which it waits."""
    out = stream(frames=0)
    out.add_text("x", 1, now=0.0)
    for index in range(STALLED_FRAMES_MAX * 2):
        out.take(float(index))

    assert not out.stalled


def test_cancel_drops_held_text_and_keeps_the_known_usage() -> None:
    """Cancelling a request whose end waits for credit ends it at once, with the usage of the real end."""
    out = stream(frames=0)
    out.add_text("a", 1, now=0.0)
    out.end(FINISHED)
    out.cancel(Usage())

    assert [Cancelled(request_id="r", seq=0, usage=FINISHED.usage)] == out.take(0.0)
    assert out.ended


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("text"), st.text(alphabet="aé€😀", max_size=5)),
            st.tuples(st.just("grant"), st.tuples(st.integers(0, 3), st.integers(0, 12))),
            st.tuples(st.just("wait"), st.floats(0, 0.05)),
        ),
        max_size=60,
    )
)
def test_whatever_happens_text_is_complete_in_order_and_paid_for(script: list[tuple[str, object]]) -> None:
    """For any interleaving of text, time and credit: no gap in `seq`, no lost or reordered text, never over the credit."""
    out = stream(frames=2, bytes_=10)
    frames, bytes_, now = 2, 10, 0.0
    given_text, events = "", []
    for kind, value in script:
        if kind == "text":
            assert isinstance(value, str)
            given_text += value
            out.add_text(value, 1, now)
        elif kind == "grant":
            assert isinstance(value, tuple)
            out.grant(*value)
            frames, bytes_ = frames + value[0], bytes_ + value[1]
        else:
            assert isinstance(value, float)
            now += value
        events += out.take(now)
        sent = [event for event in events if isinstance(event, Text)]
        assert len(sent) <= frames
        assert len(text_of(events).encode()) <= bytes_
    out.end(FINISHED)
    out.grant(100, 10_000)
    events += out.take(now)

    assert given_text == text_of(events)
    assert list(range(len(events))) == [event.seq for event in events]
    assert out.ended


def test_each_kind_of_text_goes_in_frames_of_its_own() -> None:
    """Reasoning, answer and tool calls are never mixed in a frame, keep their order, and none is left behind."""
    out = stream()
    out.add_reasoning("hm", 1, now=0.0)
    first = out.take(0.0)
    out.add_reasoning("m", 1, now=0.0)
    out.add_text("so", 1, now=0.0)
    out.add_tool_call(ToolCallDelta("r", 0, "", 0, call_id="c1", name="f"), now=0.0)
    out.add_tool_call(ToolCallDelta("r", 0, "{}", 2), now=0.0)
    out.add_tool_call(ToolCallDelta("r", 1, "[", 1, call_id="c2", name="g"), now=0.0)
    pushed_out = out.take(0.0)

    assert [Reasoning(request_id="r", seq=0, text="hm", tokens=1)] == first
    assert FLUSH_SECONDS == out.flush_at
    assert pushed_out == [
        Reasoning(request_id="r", seq=1, text="m", tokens=1),
        Text(request_id="r", seq=2, text="so", tokens=1),
        ToolCallPart(request_id="r", seq=3, index=0, call_id="c1", name="f", arguments="{}", tokens=2),
    ]
    assert out.take(FLUSH_SECONDS) == [
        ToolCallPart(request_id="r", seq=4, index=1, call_id="c2", name="g", arguments="[", tokens=1)
    ]


def test_a_call_without_arguments_yet_is_told() -> None:
    """The start of a tool call needs no text to leave."""
    out = stream()
    out.add_tool_call(ToolCallDelta("r", 0, "", 3, call_id="c", name="f"), now=0.0)

    assert out.take(0.0) == [ToolCallPart(request_id="r", seq=0, index=0, call_id="c", name="f", tokens=3)]


def test_log_probabilities_come_with_their_text_or_before_the_end() -> None:
    """None is lost: those of held back text come with it, those of text that never came in a frame without text."""
    first, second, third = (TokenLogprob(token=token, logprob=-1.0) for token in (b"a", b"b", b"c"))
    out = stream()
    out.add_text("", 1, 0.0, (first,))
    out.add_text("ab", 1, 0.0, (second,))
    out.add_text("", 1, 0.0, (third,))
    out.end(FINISHED)

    assert out.take(0.0)[:-1] == [
        Text(request_id="r", seq=0, text="ab", tokens=2, logprobs=(first, second)),
        Text(request_id="r", seq=1, text="", tokens=1, logprobs=(third,)),
    ]


def test_log_probabilities_do_not_pile_up_in_a_frame() -> None:
    """A reader without credit gets many bounded frames later, not one that breaks the credit rule."""
    entry = TokenLogprob(token=b"x", logprob=-1.0, alternatives=(Alternative(token=b"y", logprob=-2.0),) * 20)
    out = stream(frames=0)
    for index in range(10 * FLUSH_TOKENS):
        out.add_text("x", 1, index * 1.0, (entry,))
    out.grant(64, CREDIT_BYTES)
    events = out.take(1e6)

    assert text_of(events) == "x" * 10 * FLUSH_TOKENS
    assert {len(event.logprobs) for event in events if isinstance(event, Text)} == {FLUSH_TOKENS}
    assert sum(map(output_bytes, events)) > 10 * FLUSH_TOKENS * 20


def test_results_wait_for_credit() -> None:
    """Vectors and scores cost a frame and their bytes, and stay in order before the end."""
    out = stream(frames=1, bytes_=4)
    vectors = [Vectors(request_id="r", first_index=index, dimensions=1, data=bytes(4)) for index in range(2)]
    for result in vectors:
        out.add_result(result)
    out.end(FINISHED)

    assert [event.seq for event in out.take(0.0)] == [0]
    out.grant(1, 1)
    assert [type(event) for event in out.take(0.0)] == [Vectors, Finished]
