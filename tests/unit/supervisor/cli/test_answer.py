"""The events of an answer to text, and every way an answer can fail."""

import pytest

from lmx_supervisor.cli.answer import Answer
from lmx_supervisor.cli.failures import CutOff, NoAnswer, ServerRefused
from lmx_supervisor.cli.sse import event_data
from tests.unit.supervisor.cli.stand_in import chunk, whole_answer


def events(*chunks: bytes) -> list[str]:
    """The data of these events."""
    return list(event_data(chunks, line_bytes_max=10_000))


def test_text_reason_and_usage_are_collected() -> None:
    """A whole answer yields its pieces and leaves text, finish reason and token counts behind."""
    answer = Answer()
    assert list(answer.follow(events(chunk(""), *whole_answer("Hel", "lo")))) == ["Hel", "lo"]
    assert (answer.text, answer.finish_reason) == ("Hello", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 2)


def test_an_end_without_the_end_mark_is_a_failure() -> None:
    """A stream that just stops was cut off, even if it had said why it finished; what came is kept."""
    answer = Answer()
    with pytest.raises(CutOff, match="cut off"):
        list(answer.follow(events(chunk("Hel"), chunk(finish_reason="stop"))))
    assert answer.text == "Hel"


def test_an_error_in_the_stream_is_the_servers_refusal() -> None:
    """An error event carries the server's words and code, and nothing after it counts."""
    error = '{"error": {"message": "The worker died.", "type": "server_error", "param": null, "code": "worker_lost"}}'
    with pytest.raises(ServerRefused, match=r"The worker died. \(worker_lost\)"):
        list(Answer().follow([*events(chunk("Hel")), error, "[DONE]"]))


@pytest.mark.parametrize("junk", ["{", "[]", '{"choices": 1}', "[" * 5000])
def test_what_is_no_chunk_is_a_failure_and_no_traceback(junk: str) -> None:
    """Anything but a chunk ends the answer with a failure of ours."""
    with pytest.raises(NoAnswer):
        list(Answer().follow([junk]))
