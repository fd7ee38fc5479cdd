"""Scripted models that embed and rank."""

import struct
from pathlib import Path

import pytest

from lmx_protocol.messages import AnyRequest, EmbedRequest, GenerateRequest, ModelSpec, RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import ModelFormat, ModelTask, RankMethod
from lmx_worker.backends.base import Delta, ErrorDelta, FinishDelta, RequestError, ResultDelta
from lmx_worker.backends.scripted import ScriptedBackend

EMBEDS = "{tasks: [embed], reading: {dimensions: 4}}"


def ask(tmp_path: Path, script: str, request: AnyRequest) -> list[Delta]:
    """Everything that a model of this script says to one request."""
    path = tmp_path / "m.script.yaml"
    path.write_text(script)
    backend = ScriptedBackend()
    backend.load(ModelSpec(model_id="m", path=str(path), format=ModelFormat.SCRIPT), lambda *_: None)
    backend.insert(backend.prepare(request))
    deltas: list[Delta] = []
    while backend.stats().active:
        deltas += backend.step()
    return deltas


def embed(*texts: str | tuple[int, ...]) -> EmbedRequest:
    """A request for vectors."""
    return EmbedRequest(request_id="r", model_id="m", inputs=texts)


def vectors(deltas: list[Delta]) -> list[tuple[float, ...]]:
    """All vectors, by their indexes."""
    found = [delta.result for delta in deltas if isinstance(delta, ResultDelta)]
    events = [event for event in found if isinstance(event, Vectors)]
    assert [event.first_index for event in events] == list(range(len(events)))
    return [struct.unpack(f"<{event.dimensions}f", event.data) for event in events]


def test_equal_texts_have_equal_vectors_of_length_one(tmp_path: Path) -> None:
    """One event per input and step, in order, with the words counted."""
    deltas = ask(tmp_path, EMBEDS, embed("a cat", "a dog", "a cat"))
    first, second, third = vectors(deltas)

    assert first == third != second
    assert sum(value * value for value in first) == pytest.approx(1.0)
    assert isinstance(deltas[-1], FinishDelta)
    assert Usage(prompt_tokens=6) == deltas[-1].usage


def test_it_says_what_it_can_do(tmp_path: Path) -> None:
    """A model that embeds ranks too; one that does not generate refuses to."""
    path = tmp_path / "m.script.yaml"
    path.write_text(EMBEDS)
    facts = ScriptedBackend().load(ModelSpec(model_id="m", path=str(path), format=ModelFormat.SCRIPT), lambda *_: None)

    assert ((ModelTask.EMBED, ModelTask.RANK), 4) == (facts.tasks, facts.embedding_dimensions)
    with pytest.raises(RequestError, match="does not generate"):
        ask(tmp_path, EMBEDS, GenerateRequest(request_id="r", model_id="m", prompt="p"))
    with pytest.raises(RequestError, match="no embeddings"):
        ask(tmp_path, "{}", embed("a"))


@pytest.mark.parametrize(("task", "method"), [("embed", RankMethod.COSINE), ("rank", RankMethod.CROSS_ENCODER)])
def test_the_document_with_the_querys_words_ranks_first(tmp_path: Path, task: str, method: RankMethod) -> None:
    """By either method, which is told with the scores."""
    request = RankRequest(request_id="r", model_id="m", query="red fox", documents=("blue whale song", "the red fox"))
    deltas = ask(tmp_path, f"tasks: [{task}]", request)
    events = [delta.result for delta in deltas if isinstance(delta, ResultDelta)]

    assert [(method, index) for index in range(2)] == [
        (event.method, event.first_index) for event in events if isinstance(event, Scores)
    ]
    scores = [value for event in events if isinstance(event, Scores) for value in event.values]
    assert scores[0] < scores[1]


def test_a_fault_strikes_at_its_input(tmp_path: Path) -> None:
    """The `number` of a token is that of an input here."""
    script = "{tasks: [embed], faults: [{when: token, number: 2, do: fail_request}]}"
    deltas = ask(tmp_path, script, embed("a", "b", "c"))

    assert 1 == len(vectors(deltas))
    assert isinstance(deltas[-1], ErrorDelta)
