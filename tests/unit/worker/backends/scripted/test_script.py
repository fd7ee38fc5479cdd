"""The language of scripted models."""

from pathlib import Path

import pytest

from lmx_worker.backends.scripted.script import SCRIPT_BYTES_MAX, Answer, Fault, Script, read_script


def read(tmp_path: Path, text: str | bytes) -> Script:
    """Write a script and read it."""
    path = tmp_path / "m.script.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_script(path)


def test_empty_mapping_is_a_model_that_echoes(tmp_path: Path) -> None:
    """Every key has a default."""
    assert Script() == read(tmp_path, "{}")
    assert (Answer(echo=True),) == Script().answers


def test_reads_answers_and_faults(tmp_path: Path) -> None:
    """What the file says is what is read."""
    script = read(
        tmp_path,
        """
        answers:
          - {contains: France, pieces: [Par, is], tokens: 4, token_seconds: 0.5, finish: length}
          - {echo: true}
        load: {seconds: 2, fail: insufficient_memory}
        faults:
          - {when: token, number: 3, do: segfault, lives: 1}
        """,
    )

    assert ("Par", "is") == script.answers[0].pieces
    assert (Fault(when="token", number=3, do="segfault", lives=1),) == script.faults
    assert 2 == script.load.seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("answer: []", "unknown field `answer`"),
        ("answers: [{}]", "either `pieces` or `echo"),
        ("answers: [{echo: true, pieces: [a]}]", "either `pieces` or `echo"),
        ("answers: [{pieces: ['']}]", "an empty piece"),
        ("answers: [{pieces: [a], reasoning: ['']}]", "an empty piece"),
        ("answers: [{tool_calls: [{name: f, arguments: ['']}]}]", "an empty piece"),
        ("answers: [{tool_calls: [{name: f}], tokens: 5}]", "there are none"),
        ("answers: [{pieces: [a], logprob: 0.5}]", "<= 0"),
        ('answers: [{pieces: ["\\ud800"]}]', "encodable|Unicode"),
        ("faults: [{when: token}]", "missing required field `do`"),
        ("faults: [{when: token, do: dance}]", "dance"),
        ("faults: [{when: load, do: fail_request}]", "needs `when: request`"),
        ("faults: [{when: load, do: wrong_version}]", "needs `when: hello`"),
        ("load: {seconds: -1}", ">= 0"),
        ("a: [", "parsing"),
        ("just text", "object"),
        (b"\xff\xfe\x00", "ascii|unacceptable|codec|parsing"),
        ("x" * (SCRIPT_BYTES_MAX + 1), "over"),
        ("[" * SCRIPT_BYTES_MAX, "nested"),
    ],
)
def test_refuses_what_is_no_script_and_says_why(tmp_path: Path, text: str | bytes, reason: str) -> None:
    """Whatever the file holds, the answer is a `ValueError` that names the trouble."""
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, text)
