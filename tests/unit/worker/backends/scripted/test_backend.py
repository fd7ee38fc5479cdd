"""The scripted backend keeps the manners of a real one."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, ModelSpec, OutputForm, Sampling, Tool, Usage
from lmx_protocol.states import FinishReason, ModelFormat, OutputKind
from lmx_worker.backends.base import (
    Backend,
    Delta,
    ErrorDelta,
    FinishDelta,
    LoadError,
    PrefillDelta,
    ReasoningDelta,
    RequestError,
    TextDelta,
    ToolCallDelta,
)
from lmx_worker.backends.registry import create_backend
from lmx_worker.backends.scripted import ScriptedBackend


def load(tmp_path: Path, text: str, **options: int) -> ScriptedBackend:
    """A backend that has loaded this script."""
    path = tmp_path / "m.script.yaml"
    path.write_text(text)
    backend = ScriptedBackend()
    backend.import_libraries()
    backend.load(ModelSpec(model_id="m", path=str(path), format=ModelFormat.SCRIPT, **options), lambda *_: None)
    return backend


def insert(backend: ScriptedBackend, request_id: str, prompt: str = "hello there", max_tokens: int | None = None) -> None:
    """Put a chat into the batch."""
    request = GenerateRequest(
        request_id=request_id, model_id="m", messages=(Message(role="user", content=prompt),), max_tokens=max_tokens
    )
    backend.insert(backend.prepare(request))


def drain(backend: ScriptedBackend) -> list[Delta]:
    """Step until nothing runs."""
    deltas: list[Delta] = []
    while backend.stats().active:
        deltas += backend.step()
    return deltas


def test_is_a_registered_backend() -> None:
    """The registry makes one, and it has the whole interface."""
    assert isinstance(create_backend("scripted"), Backend)


def test_emits_its_pieces_and_counts_them(tmp_path: Path) -> None:
    """Prefill, the pieces repeated to the wanted length, and the end with its usage."""
    backend = load(tmp_path, "answers: [{pieces: [a, b], tokens: 3}]")
    insert(backend, "r")
    deltas = drain(backend)

    assert [PrefillDelta("r", 3, 3, 0)] == deltas[:1]
    assert ["a", "b", "a"] == [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    (end,) = [delta for delta in deltas if isinstance(delta, FinishDelta)]
    assert (FinishReason.STOP, Usage(prompt_tokens=3, completion_tokens=3)) == (end.reason, end.usage)


def test_thoughts_count_as_reasoning(tmp_path: Path) -> None:
    """They are part of the completion, and told apart in the usage; `max_tokens` cuts calls too."""
    backend = load(tmp_path, "answers: [{reasoning: [hm, so], pieces: [x], tool_calls: [{name: look}]}]")
    request = GenerateRequest(request_id="r", model_id="m", prompt_tokens=(7, 8), tools=(Tool(name="look"),), max_tokens=3)
    backend.insert(backend.prepare(request))
    deltas = drain(backend)

    assert [PrefillDelta("r", 2, 2, 0), ReasoningDelta("r", "hm", 1), ReasoningDelta("r", "so", 1)] == deltas[:3]
    end = deltas[-1]
    assert isinstance(end, FinishDelta)
    usage = Usage(prompt_tokens=2, completion_tokens=3, reasoning_tokens=2)
    assert (FinishReason.LENGTH, usage) == (end.reason, end.usage)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": Sampling(logit_bias=((1, 1.0),))}, "logit_bias"),
        ({"output": OutputForm(kind=OutputKind.JSON_OBJECT)}, "output"),
        ({"continues_last_message": True}, "continues_last_message"),
    ],
)
def test_refuses_what_it_cannot_honour(tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    """Each such field is refused under its name, and told to the supervisor beforehand."""
    backend = load(tmp_path, "{}")
    with pytest.raises(RequestError) as refused:
        backend.prepare(GenerateRequest(request_id="r", model_id="m", prompt="p", **fields))

    assert (ErrorCode.NOT_SUPPORTED, param) == (refused.value.code, refused.value.param)


def test_echoes_tokens_as_numbers(tmp_path: Path) -> None:
    """A prompt of tokens has no text; its numbers stand for it."""
    backend = load(tmp_path, "{}")
    backend.insert(backend.prepare(GenerateRequest(request_id="r", model_id="m", prompt_tokens=(7, 8))))

    assert ["7", " 8"] == [delta.text for delta in drain(backend) if isinstance(delta, TextDelta)]


def test_chooses_its_answer_by_the_prompt_and_can_echo(tmp_path: Path) -> None:
    """The first answer that fits is given; an echo gives the last message back unchanged."""
    backend = load(tmp_path, "answers: [{contains: France, pieces: [Paris]}, {echo: true}]")
    insert(backend, "fact", "Capital of France?")
    insert(backend, "echo", "two  words\n")
    texts: dict[str, str] = {"fact": "", "echo": ""}
    for delta in drain(backend):
        if isinstance(delta, TextDelta):
            texts[delta.request_id] += delta.text

    assert {"fact": "Paris", "echo": "two  words\n"} == texts


def test_batches_one_token_per_request_and_step(tmp_path: Path) -> None:
    """Two requests decode in the same steps, prompts go in chunk by chunk, one chunk per step."""
    backend = load(tmp_path, "answers: [{pieces: [x], tokens: 5}]", prefill_chunk_tokens=2)
    insert(backend, "a")
    insert(backend, "b")
    steps = [backend.step() for _ in range(5)]

    assert [1, 1, 2, 2, 2] == [len(step) for step in steps]
    assert [PrefillDelta("a", 2, 3, 0)] == steps[0]
    assert {"a", "b"} == {delta.request_id for delta in steps[4]}


def test_holds_prompts_to_what_is_allowed(tmp_path: Path) -> None:
    """A limit shortens the pieces of a prompt, none at all leaves it waiting, and without one they are whole chunks again."""
    backend = load(tmp_path, "sharing: time", prefill_chunk_tokens=16)
    insert(backend, "r", "word " * 40)
    done = []
    for allowed in (3, 0, None):
        backend.limit_prefill(allowed)
        backend.step()
        done.append(backend.stats().tokens_prefilled)

    assert [3, 3, 19] == done


def test_counts_a_prompt_however_long(tmp_path: Path) -> None:
    """Words are tokens; a prompt that would be refused is counted."""
    backend = load(tmp_path, "{context_length: 5}")
    request = GenerateRequest(request_id="r", model_id="m", messages=(Message(role="user", content="one two three four five"),))

    assert 6 == backend.count_tokens(request)


def test_respects_slots_limits_and_the_context(tmp_path: Path) -> None:
    """Slots bound the batch, `max_tokens` cuts the answer, and a prompt that fills the context is refused."""
    backend = load(tmp_path, "{context_length: 5, answers: [{pieces: [x], tokens: 50}]}", slots=1)
    insert(backend, "a", max_tokens=1)

    assert not backend.has_room()

    end = drain(backend)[-1]

    assert isinstance(end, FinishDelta)
    assert (FinishReason.LENGTH, 1) == (end.reason, end.usage.completion_tokens)

    insert(backend, "b")

    assert 2 == sum(isinstance(delta, TextDelta) for delta in drain(backend))

    with pytest.raises(RequestError, match="5 tokens"):
        insert(backend, "c", "one two three four")


def test_pause_and_remove(tmp_path: Path) -> None:
    """A paused request makes nothing, a removed one is gone and says what it used."""
    backend = load(tmp_path, "answers: [{pieces: [x], tokens: 50}]")
    insert(backend, "a")
    backend.step()
    backend.step()
    backend.pause("a")

    assert [] == backend.step()

    backend.resume("a")

    assert [TextDelta("a", "x", 1)] == backend.step()
    assert Usage(prompt_tokens=3, completion_tokens=2) == backend.remove("a")
    assert Usage() == backend.remove("a")
    assert [] == backend.step()


@pytest.mark.parametrize("trigger", ["when: request", "when: token, number: 2"])
def test_a_request_can_fail_alone(tmp_path: Path, trigger: str) -> None:
    """`fail_request` ends the one request that fits, the other runs to its end."""
    backend = load(tmp_path, f"answers: [{{pieces: [x, y]}}]\nfaults: [{{{trigger}, contains: bad, do: fail_request}}]")
    insert(backend, "bad", "bad words")
    insert(backend, "good")
    deltas = drain(backend)

    assert ErrorDelta("bad", ErrorCode.GENERATION_ERROR, "scripted fault") in deltas
    assert ["good"] == [delta.request_id for delta in deltas if isinstance(delta, FinishDelta)]


def test_raise_comes_out_of_the_step(tmp_path: Path) -> None:
    """`raise` strikes the whole step with the script's message."""
    backend = load(tmp_path, "faults: [{when: token, do: raise, line: boom}]")
    insert(backend, "a")
    backend.step()
    with pytest.raises(RuntimeError, match="boom"):
        backend.step()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense: 1", ErrorCode.MODEL_PROBE_FAILED),
        ("load: {fail: insufficient_memory}", ErrorCode.INSUFFICIENT_MEMORY),
        (None, ErrorCode.MODEL_NOT_FOUND),
    ],
)
def test_load_errors_have_codes(tmp_path: Path, text: str | None, code: ErrorCode) -> None:
    """A missing file, a file that is no script and a scripted failure differ."""
    path = tmp_path / "m.script.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LoadError) as raised:
        ScriptedBackend().load(ModelSpec(model_id="m", path=str(path), format=ModelFormat.SCRIPT), lambda *_: None)

    assert code == raised.value.code


def test_load_tells_its_progress(tmp_path: Path) -> None:
    """The load calls back as often as the script says, and ends with everything done."""
    path = tmp_path / "m.script.yaml"
    path.write_text("load: {callbacks: 4, bytes: 100}")
    told: list[tuple[str, int, int]] = []
    spec = ModelSpec(model_id="m", path=str(path), format=ModelFormat.SCRIPT)
    ScriptedBackend().load(spec, lambda *progress: told.append(progress))

    assert [("weights", done, 100) for done in (0, 25, 50, 75, 100)] == told


TOOL = Tool(name="now", parameters='{"type": "object", "properties": {"zone": {"type": "string"}}}')


def test_honours_stop_strings(tmp_path: Path) -> None:
    """A stop string ends the answer where it begins, across the script's pieces; tokens after it are not made."""
    backend = load(tmp_path, "answers: [{pieces: ['one', ' EN', 'D', ' two'], tokens: 8}]")
    request = GenerateRequest(request_id="r", model_id="m", messages=(Message(role="user", content="x"),), stop=("END",))
    backend.insert(backend.prepare(request))
    deltas = drain(backend)
    (end,) = [delta for delta in deltas if isinstance(delta, FinishDelta)]

    assert "one " == "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert (FinishReason.STOP, "END", 3) == (end.reason, end.stop_sequence, end.usage.completion_tokens)


@pytest.mark.parametrize(
    ("calls", "pieces"),
    [
        ("default", ["<think>h", "m</think>", '<tool_call>{"name": "now", "argum', 'ents": {"zone": "UTC"}}</tool_call>']),
        ("glm", ["<think>hm</think><tool_call>now<arg_key>zone</arg_key><arg_value>U", "TC</arg_value></tool_call>"]),
        ("mistral", ["<think>hm</think>", '[TOOL_CALLS]now[ARGS]{"zone": "UTC"}']),
        ("harmony", ["<|channel|>analysis<|message|>hm<|end|><|channel|>x to=functions.now<|message|>", '{"zone": "UTC"}']),
    ],
)
def test_thinks_and_calls_in_the_format_of_its_script(tmp_path: Path, calls: str, pieces: list[str]) -> None:
    """What a script writes in a real model's format comes out as that model's reasoning and calls would."""
    backend = load(tmp_path, json.dumps({"written_as": calls, "answers": [{"pieces": pieces}]}))
    request = GenerateRequest(request_id="r", model_id="m", messages=(Message(role="user", content="x"),), tools=(TOOL,))
    backend.insert(backend.prepare(request))
    deltas = drain(backend)
    called = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    end = deltas[-1]

    assert "hm" == "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    assert "" == "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert ["now"] == [delta.name for delta in called if delta.call_id]
    assert {"zone": "UTC"} == json.loads("".join(delta.arguments for delta in called))
    assert isinstance(end, FinishDelta)
    assert FinishReason.TOOL_CALLS == end.reason
    assert end.usage.reasoning_tokens > 0


def test_calls_and_thoughts_of_plain_prompts_are_text(tmp_path: Path) -> None:
    """A completion of a plain prompt is not a chat: nothing in it is parsed."""
    written = "<think>hm</think>"
    backend = load(tmp_path, json.dumps({"written_as": "hermes", "answers": [{"pieces": [written]}]}))
    backend.insert(backend.prepare(GenerateRequest(request_id="r", model_id="m", prompt="x")))

    assert written == "".join(delta.text for delta in drain(backend) if isinstance(delta, TextDelta))
