"""What forced and strict calls are held to: every format's own calls fit, words and other tools do not."""

import json

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, OutputForm, Tool, ToolChoice
from lmx_protocol.states import OutputKind, ToolMode
from lmx_worker.backends.base import RequestError
from lmx_worker.text.answer_format import CALL_STYLES, AnswerFormat
from lmx_worker.text.answer_reader import reading_of
from lmx_worker.text.forcing import form_of
from tests.support.answers import NOW, PARIS, THINK, TOOLS, read

CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "llama": '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}; {"name": "now", "parameters": {}}',
    "cohere": '<|START_ACTION|>[{"tool_name": "get_weather", "parameters": {"city": "Paris", "days": 3}}, '
    '{"tool_name": "now", "parameters": {}}]<|END_ACTION|>',
    "granite": '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}, '
    '{"name": "now", "arguments": {}}]<|/tool_call|>',
    "mistral": '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]now[ARGS]{}',
    "deepseek": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris", "days": 3}'
    "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    '{"city": "Paris", "days": 3}<|tool_call_end|><|tool_calls_section_end|>',
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    "minimax": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">\nParis\n</parameter>\n'
    '<parameter name="days">\n3\n</parameter>\n</invoke>\n</minimax:tool_call>\n'
    '<minimax:tool_call>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
    "minicpm5": '<function name="get_weather">\n<param name="city">Paris</param>\n<param name="days">3</param>\n</function>\n'
    '<function name="now">\n</function>',
    "glm": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
    "harmony": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Paris", "days": 3}<|call|><|start|>assistant<|channel|>commentary '
    "to=functions.now <|constrain|>json<|message|>{}<|call|>",
}
STRICT = tuple(msgspec.structs.replace(tool, strict=True) for tool in TOOLS)
BYTES = LLTokenizer("byte")
ANY = OutputForm()


def format_of(style: str) -> AnswerFormat:
    """A model that writes in this style."""
    return AnswerFormat(is_harmony=True) if style == "harmony" else AnswerFormat(calls=CALL_STYLES[style])


def ask(
    mode: ToolMode, tools: tuple[Tool, ...] = TOOLS, *, name: str = "", parallel: bool = True, output: OutputForm = ANY
) -> GenerateRequest:
    """A chat request with tools."""
    return GenerateRequest(
        request_id="r",
        model_id="m",
        messages=(Message(role="user", content="x"),),
        tools=tools,
        tool_choice=ToolChoice(mode=mode, name=name, parallel=parallel),
        output=output,
    )


def fits(form: OutputForm, text: str) -> bool:
    """Whether the form allows exactly this text."""
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(form.source), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return all(matcher.consume_token(byte) for byte in text.encode()) and bool(matcher.is_accepting())


@pytest.mark.parametrize("style", CALLS)
def test_forced_calls_are_the_models_own(style: str) -> None:
    """Required: calls in the model's format fit and are read as calls; words, unknown tools and wrong types do not fit."""
    request, format_, written = ask(ToolMode.REQUIRED), format_of(style), CALLS[style]
    form = form_of(request, format_, begins_in_reasoning=False)

    assert fits(form, written)
    assert read(reading_of(request, format_), [written]).calls in ([PARIS, NOW], [PARIS])
    assert not fits(form, "It is sunny.")
    assert not fits(form, written.replace("get_weather", "steal"))
    assert not fits(form, written.replace("3", '"three"'))


@pytest.mark.parametrize("style", ["hermes", "mistral", "glm"])
def test_a_named_tool_is_called_once(style: str) -> None:
    """Only that tool, and no second call."""
    form = form_of(ask(ToolMode.NAMED, name="now"), format_of(style), begins_in_reasoning=False)
    first, second = {
        "hermes": ("", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'),
        "mistral": ("", "[TOOL_CALLS]now[ARGS]{}"),
        "glm": ("", "<tool_call>now\n</tool_call>"),
    }[style]
    assert fits(form, first + second)
    assert not fits(form, second + "\n" + second) and not fits(form, second + second)
    assert not fits(form, CALLS[style])


@pytest.mark.parametrize(("begins", "before"), [(True, "hm <\n</think>\n\n"), (False, "<think>hm</think>\n"), (False, "")])
def test_a_model_that_thinks_may_think_first(begins: bool, before: str) -> None:
    """Reasoning is free, whoever begins it, and does not end the obligation."""
    format_ = AnswerFormat(calls=CALL_STYLES["hermes"], reasoning=THINK)
    form = form_of(ask(ToolMode.REQUIRED), format_, begins_in_reasoning=begins)
    assert fits(form, before + CALLS["hermes"])
    assert not fits(form, before + "No.")


@pytest.mark.parametrize(
    ("kind", "source", "good"),
    [
        (OutputKind.JSON_OBJECT, "", '{"a": 1}'),
        (OutputKind.JSON_SCHEMA, '{"type": "integer"}', "12"),
        (OutputKind.REGEX, "a/b+", "a/bb"),
        (OutputKind.GRAMMAR, 'start: "x" y\ny: "y"', "xy"),
    ],
)
def test_an_output_form_begins_after_the_reasoning(kind: OutputKind, source: str, good: str) -> None:
    """Where the prompt begins the reasoning, the form holds from its end on, not from the first token."""
    request = ask(ToolMode.NONE, output=OutputForm(kind=kind, source=source))
    form = form_of(request, AnswerFormat(reasoning=THINK), begins_in_reasoning=True)
    assert fits(form, f"let me see</think>\n{good}")
    assert not fits(form, "let me see</think>\nzz")
    assert form_of(request, AnswerFormat(reasoning=THINK), begins_in_reasoning=False) == request.output


@pytest.mark.parametrize("style", ["hermes", "default", "mistral", "qwen3_coder", "minimax", "glm"])
def test_strict_tools_hold_every_call_that_is_begun(style: str) -> None:
    """Where a call is the model's choice: words fit, calls that keep the schema fit, others do not."""
    form = form_of(ask(ToolMode.AUTO, STRICT), format_of(style), begins_in_reasoning=False)
    written = CALLS["hermes" if style == "default" else style]
    assert fits(form, "No < call.") and fits(form, written) and fits(form, f"Let me see.\n{written}")
    assert not fits(form, f"Let me see.\n{written.replace('get_weather', 'steal')}")
    assert not fits(form, written.replace("3", '"three"'))


def test_an_answer_in_a_form_may_be_a_call_instead() -> None:
    """With a form for the answer and tools that may be called: either of them, and nothing else."""
    output = OutputForm(kind=OutputKind.JSON_SCHEMA, source='{"type": "object", "properties": {"a": {"type": "integer"}}}')
    form = form_of(ask(ToolMode.AUTO, output=output), format_of("hermes"), begins_in_reasoning=False)
    assert fits(form, '{"a": 1}') and fits(form, CALLS["hermes"])
    assert not fits(form, "words")


def test_definitions_of_a_schema_are_found() -> None:
    """A schema that refers to its own definitions can be held to, whole and argument by argument."""
    schema = {"properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"], "$defs": {"n": {"type": "integer"}}}
    tools = (Tool(name="f", parameters=json.dumps({"type": "object", **schema})),)
    for style, good in (
        ("mistral", '[TOOL_CALLS]f[ARGS]{"n": 1}'),
        ("glm", "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
    ):
        form = form_of(ask(ToolMode.REQUIRED, tools), format_of(style), begins_in_reasoning=False)
        assert fits(form, good)
        assert not fits(form, good.replace("1", '"x"'))


@pytest.mark.parametrize(
    ("mode", "tools", "style", "param"),
    [
        (ToolMode.REQUIRED, TOOLS, "gemma4", "tool_choice"),
        (ToolMode.AUTO, STRICT, "llama", "tools"),
    ],
)
def test_what_cannot_be_held_to_is_refused(mode: ToolMode, tools: tuple[Tool, ...], style: str, param: str) -> None:
    """Never ignored in silence: the client is told which field asks for too much."""
    with pytest.raises(RequestError) as caught:
        form_of(ask(mode, tools), format_of(style), begins_in_reasoning=False)
    assert (caught.value.code, caught.value.param) == (ErrorCode.NOT_SUPPORTED, param)
