"""Answers of models as they are written, in every format, with what each of them means."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from lmx_protocol.messages import Tool
from lmx_worker.text.answer_format import CALL_STYLES, AnswerFormat
from lmx_worker.text.answer_reader import AnswerReader, Reading
from lmx_worker.text.pieces import CallArguments, CallBegun, Piece, Said, Thought
from lmx_worker.text.reasoning import ReasoningMarks
from lmx_worker.text.tool_book import ToolBook

WEATHER = Tool(
    name="get_weather",
    description="The weather in a city",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "hourly": {"type": "boolean"},
                "units": {"enum": ["metric", "imperial"]},
                "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
            },
            "required": ["city"],
        }
    ),
)
CLOCK = Tool(name="now", parameters='{"type": "object", "properties": {}}')
TOOLS = (WEATHER, CLOCK)

THINK = ReasoningMarks("<think>", "</think>")


@dataclass
class Meaning:
    """An answer put together; of a call its name and what its arguments say (or their text, where that is no JSON)."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, object]] = field(default_factory=list)
    call_ids: list[str] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Sample:
    """What a model wrote, and what it means."""

    name: str
    written: str
    means: Meaning
    style: str = "default"
    reasoning: ReasoningMarks | None = None
    is_open: bool = False

    @property
    def reading(self) -> Reading:
        """How it is to be read."""
        if self.style == "harmony":
            format_ = AnswerFormat(is_harmony=True)
        else:
            format_ = AnswerFormat(calls=CALL_STYLES[self.style], reasoning=self.reasoning)
        return Reading(format=format_, tools=ToolBook(TOOLS), begins_in_reasoning=self.is_open)


def read(reading: Reading, parts: Iterable[str]) -> Meaning:
    """What an answer means that arrives in these parts."""
    reader = AnswerReader(reading)
    pieces = [piece for part in parts for piece in reader.push(part)]
    return put_together([*pieces, *reader.finish()])


def put_together(pieces: Iterable[Piece]) -> Meaning:
    """The whole that the pieces are of."""
    meaning = Meaning()
    arguments: list[str] = []
    names: list[str] = []
    for piece in pieces:
        match piece:
            case Said():
                meaning.text += piece.text
            case Thought():
                meaning.reasoning += piece.text
            case CallBegun():
                names.append(piece.name)
                arguments.append("")
                meaning.call_ids.append(piece.call_id)
            case CallArguments():
                arguments[-1] += piece.text
    meaning.calls = [(name, said(text)) for name, text in zip(names, arguments, strict=True)]
    return meaning


def said(arguments: str) -> object:
    """What a JSON text says, or the text itself where it is none."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


PARIS = ("get_weather", {"city": "Paris", "days": 3})
NOW = ("now", {})
BOTH = Meaning("Let me look.", "", [PARIS, NOW])

SAMPLES = (
    Sample("plain", "Nothing to call here.\n", Meaning("Nothing to call here.\n")),
    Sample("plain with marks of others", "a <b> c </think> [TOOL_CALLS] {x}", Meaning("a <b> c </think> [TOOL_CALLS] {x}")),
    # --- JSON objects ---------------------------------------------------------------------------------------------------
    Sample(
        "hermes",
        'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        BOTH,
        "hermes",
    ),
    Sample(
        "hermes without the end of the block",
        'Let me look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n'
        '<tool_call>\n{"arguments": {}, "name": "now"}\n',
        BOTH,
        "hermes",
    ),
    Sample(
        "hermes with arguments in a string, and none",
        'Let me look.<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 3}"}</tool_call>\n'
        '<tool_call>{"name": "now", "arguments": null}</tool_call>',
        BOTH,
        "hermes",
    ),
    Sample(
        "hermes with brackets, quotes and line breaks in a string",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "a}]\\"</tool_call>\\u00e9 \n b", "where": {"lat": [1.5]}}}'
        "\n</tool_call> Done.",
        Meaning(" Done.", "", [("get_weather", {"city": 'a}]"</tool_call>é \n b', "where": {"lat": [1.5]}})]),
        "hermes",
    ),
    Sample(
        "hermes after thinking",
        "<think>\nThe user wants weather.\n</think>\n\nLet me look.\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now"}\n</tool_call>',
        Meaning("Let me look.", "The user wants weather.", [PARIS, NOW]),
        "hermes",
        THINK,
    ),
    Sample(
        "thinking that the prompt began",
        "\nTwo plus two.\n\nIs four.\n</think>\n\nIt is 4.\n",
        Meaning("It is 4.\n", "Two plus two.\n\nIs four."),
        reasoning=THINK,
        is_open=True,
    ),
    Sample("thinking that is empty", "<think>\n\n</think>\n\nIt is 4.", Meaning("It is 4."), reasoning=THINK),
    Sample(
        "thinking that was cut off",
        "<think>Two plus two. ",
        Meaning("", "Two plus two. "),
        reasoning=THINK,
    ),
    Sample("a mark of thinking in the text", "A <think> tag", Meaning("A <think> tag"), reasoning=THINK),
    Sample(
        "magistral",
        "[THINK]Hm.[/THINK]Hello",
        Meaning("Hello", "Hm."),
        reasoning=ReasoningMarks("[THINK]", "[/THINK]"),
    ),
    Sample(
        "llama bare",
        '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}; {"name": "now", "parameters": {}}',
        Meaning("", "", [PARIS, NOW]),
        "llama",
    ),
    Sample(
        "llama with its mark",
        'Let me look.<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Paris", "days": 3}}\n'
        '{"name": "now", "parameters": {}}',
        BOTH,
        "llama",
    ),
    Sample("llama answers in JSON", '{"name": "Ada", "age": 3}', Meaning('{"name": "Ada", "age": 3}'), "llama"),
    Sample(
        "granite",
        'Let me look. <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "now", '
        '"arguments": {}}]',
        BOTH,
        "granite",
    ),
    Sample(
        "cohere",
        "<|START_THINKING|>I will look.<|END_THINKING|>Let me look.<|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris", "days": 3}},\n'
        '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
        Meaning("Let me look.", "I will look.", [PARIS, NOW]),
        "cohere",
        ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    Sample(
        "default in its bare form",
        ' \n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n',
        Meaning("", "", [PARIS]),
    ),
    # --- a head and JSON ------------------------------------------------------------------------------------------------
    Sample(
        "mistral list",
        'Let me look.[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}, "id": "abcdefghi"}, '
        '{"name": "now", "arguments": {}}]',
        BOTH,
        "mistral",
    ),
    Sample(
        "mistral heads",
        'Let me look.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}',
        BOTH,
        "mistral",
    ),
    Sample(
        "deepseek v3",
        "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        '```json\n{"city": "Paris", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
        "deepseek",
    ),
    Sample(
        "deepseek v3.1",
        'Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris", "days": 3}'
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
        "deepseek",
    ),
    Sample(
        "kimi",
        "Let me look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris", "days": 3}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        BOTH,
        "kimi",
    ),
    # --- tags -----------------------------------------------------------------------------------------------------------
    Sample(
        "qwen3 coder",
        "Let me look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        BOTH,
        "qwen3_coder",
    ),
    Sample(
        "qwen3 coder, every type",
        '<tool_call>\n<function=get_weather>\n<parameter=city>\n\n 3 "x" \\ </b>\n\n</parameter>\n<parameter=hourly>\nTrue\n'
        "</parameter>\n<parameter=days>\nmany\n</parameter>\n<parameter=units>\nmetric\n</parameter>\n"
        '<parameter=where>\n{"lat": 1}'
        "\n</parameter>\n<parameter=unknown>\n12\n</parameter>\n</function>\n</tool_call>",
        Meaning(
            "",
            "",
            [
                (
                    "get_weather",
                    {
                        "city": '\n 3 "x" \\ </b>\n',
                        "hourly": True,
                        "days": "many",
                        "units": "metric",
                        "where": {"lat": 1},
                        "unknown": "12",
                    },
                )
            ],
        ),
        "qwen3_coder",
    ),
    Sample(
        "qwen3 coder without the outer tag",
        "Let me look.\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>\n<function=now>\n</function>",
        BOTH,
        "qwen3_coder",
    ),
    Sample(
        "qwen3 coder that falls back to JSON",
        'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>\n'
        "<tool_call>\n<function=now>\n</function>\n</tool_call>\n",
        BOTH,
        "qwen3_coder",
    ),
    Sample(
        "minimax",
        'Let me look.\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        BOTH,
        "minimax",
    ),
    Sample(
        "deepseek v3.2",
        'Let me look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        BOTH,
        "dsml",
    ),
    Sample(
        "minicpm5",
        'Let me look.\n<function name="get_weather"><param name="city">Paris</param><param name="days">3</param></function>\n'
        '<function name="now"></function>',
        BOTH,
        "minicpm5",
    ),
    Sample(
        "glm",
        "Let me look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        BOTH,
        "glm",
    ),
    # --- code -----------------------------------------------------------------------------------------------------------
    Sample(
        "lfm2",
        'Let me look.<|tool_call_start|>[get_weather(city="Paris", days=3), now()]<|tool_call_end|>',
        BOTH,
        "lfm2",
    ),
    Sample(
        "lfm2 with every kind of value",
        "<|tool_call_start|>[get_weather(city='it\\'s \"x\" \\x41', hourly=True, units=None, where={'lat': [1, 2.5, ()], k: "
        '""})]<|tool_call_end|>',
        Meaning(
            "",
            "",
            [("get_weather", {"city": 'it\'s "x" A', "hourly": True, "units": None, "where": {"lat": [1, 2.5, []], "k": ""}})],
        ),
        "lfm2",
    ),
    Sample("pythonic bare", '[get_weather(city="Paris", days=3), now()]', Meaning("", "", [PARIS, NOW]), "pythonic"),
    Sample("pythonic answers with a list", "[1, 2, 3] is it.", Meaning("[1, 2, 3] is it."), "pythonic"),
    Sample(
        "function gemma",
        "Let me look.<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:3}<end_function_call>"
        "<start_function_call>call:now{}<end_function_call>",
        BOTH,
        "function_gemma",
    ),
    Sample(
        "gemma 4",
        '<|channel>thought\nI look.\n<channel|>Let me look.<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}'
        "<tool_call|><|tool_call>call:now{}<tool_call|>",
        Meaning("Let me look.", "I look.", [PARIS, NOW]),
        "gemma4",
        ReasoningMarks("<|channel>thought", "<channel|>"),
    ),
    # --- messages with heads --------------------------------------------------------------------------------------------
    Sample(
        "harmony",
        "<|channel|>analysis<|message|>Need weather.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris", "days": 3}<|call|><|start|>assistant to=functions.now<|channel|>commentary<|message|>{}<|call|>',
        Meaning("Let me look.", "Need weather.", [PARIS, NOW]),
        "harmony",
    ),
    Sample(
        "harmony final",
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.",
        Meaning("It is 4.", "Easy."),
        "harmony",
    ),
    Sample("harmony without any head", "It is < 4 & > 3.", Meaning("It is < 4 & > 3."), "harmony"),
)

MALFORMED = (
    Sample(
        "not JSON",
        "<tool_call>\nweather in Paris\n</tool_call>",
        Meaning("<tool_call>\nweather in Paris\n</tool_call>"),
        "hermes",
    ),
    Sample(
        "no name", 'x <tool_call>{"arguments": {}}</tool_call>', Meaning('x <tool_call>{"arguments": {}}</tool_call>'), "hermes"
    ),
    Sample(
        "arguments that are no object",
        '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
        Meaning('<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        "hermes",
    ),
    Sample(
        "a call inside a broken one",
        '<tool_call>hm <tool_call>{"name": "now"}</tool_call>',
        Meaning("<tool_call>hm", "", [NOW]),
        "hermes",
    ),
    Sample(
        "cut off before the arguments",
        '<tool_call>\n{"name": "get_wea',
        Meaning('<tool_call>\n{"name": "get_wea'),
        "hermes",
    ),
    Sample(
        "cut off in the arguments",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par',
        Meaning("", "", [("get_weather", '{"city": "Par')]),
        "hermes",
    ),
    Sample(
        "arguments that break off",
        '<tool_call>{"name": "now", "arguments": {"a": oops!}}</tool_call> yes',
        Meaning(": oops!}}</tool_call> yes", "", [("now", '{"a"')]),
        "hermes",
    ),
    Sample(
        "more keys than a call has",
        '<tool_call>{"name": "now", "arguments": {}, "mood": 1}</tool_call>',
        Meaning(', "mood": 1}</tool_call>', "", [NOW]),
        "hermes",
    ),
    Sample(
        "words between tags",
        "<tool_call><function=now><parameter=a>1</parameter>hm</function></tool_call>",
        Meaning("hm</function></tool_call>", "", [("now", {"a": "1"})]),
        "qwen3_coder",
    ),
    Sample(
        "a tag without a name",
        "<tool_call><function=>x</function></tool_call>",
        Meaning("<tool_call><function=>x</function></tool_call>"),
        "qwen3_coder",
    ),
    Sample(
        "a value without its end",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Par",
        Meaning("", "", [("get_weather", '{"city": "Par')]),
        "glm",
    ),
    Sample(
        "a key without a value",
        "<tool_call>get_weather<arg_key>city</arg_key></tool_call>",
        Meaning("city</arg_key></tool_call>", "", [("get_weather", {})]),
        "glm",
    ),
    Sample(
        "a code call that is none",
        "<|tool_call_start|>get_weather<|tool_call_end|>",
        Meaning("<|tool_call_start|>get_weather<|tool_call_end|>"),
        "lfm2",
    ),
    Sample(
        "a code call of an unknown tool, bare",
        "[shout(x=1)]",
        Meaning("[shout(x=1)]"),
        "pythonic",
    ),
    Sample("a head without arguments", "[TOOL_CALLS]hm, no", Meaning("[TOOL_CALLS]hm, no"), "mistral"),
    Sample(
        "harmony with a broken head",
        "<|channel|>final<|end|>x<|channel|>final<|message|>y<|return|>",
        Meaning("<|channel|>final<|end|>xy"),
        "harmony",
    ),
)
