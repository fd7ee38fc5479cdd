"""How one model writes its answers: where its reasoning and its calls of tools begin and end. Chosen once, at load.

The chat template tells: it shows the model its earlier calls and thoughts in the form in which it was taught to write them.
Where the template does not speak of tools, or in a form that is not known here, LMX's own prompt asks for `DEFAULT_CALLS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lmx_worker.text import harmony
from lmx_worker.text.calls.headed_calls import HeadedCalls
from lmx_worker.text.calls.json_calls import JsonCalls
from lmx_worker.text.calls.literal_calls import LiteralCalls
from lmx_worker.text.calls.literals import LiteralNotation
from lmx_worker.text.calls.pair_calls import PairCalls
from lmx_worker.text.calls.style import CallStyle
from lmx_worker.text.calls.tagged_calls import TaggedCalls
from lmx_worker.text.reasoning import ReasoningMarks, reasoning_marks

_PYTHON = LiteralNotation(('"""', "'''", '"', "'"), has_escapes=True)

DEFAULT_CALLS = JsonCalls("<tool_call>", "</tool_call>", may_be_bare=True)

CALL_STYLES: dict[str, CallStyle] = {
    "minimax": TaggedCalls(
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        "<invoke",
        "</invoke>",
        "<parameter",
        "</parameter>",
        has_line_breaks=True,
    ),
    "dsml": TaggedCalls(
        "<｜DSML｜function_calls>",
        "</｜DSML｜function_calls>",
        "<｜DSML｜invoke",
        "</｜DSML｜invoke>",
        "<｜DSML｜parameter",
        "</｜DSML｜parameter>",
    ),
    "seed": TaggedCalls(
        "<seed:tool_call>",
        "</seed:tool_call>",
        "<function=",
        "</function>",
        "<parameter=",
        "</parameter>",
        has_line_breaks=True,
    ),
    "atem": TaggedCalls(
        "<atem:function_calls>",
        "</atem:function_calls>",
        "<atem:invoke",
        "</atem:invoke>",
        "<atem:parameter",
        "</atem:parameter>",
    ),
    "gemma4": LiteralCalls(
        "<|tool_call>", "<tool_call|>", LiteralNotation(('<|"|>',), has_escapes=False), "call:", brackets="{}", equals=":"
    ),
    "function_gemma": LiteralCalls(
        "<start_function_call>",
        "<end_function_call>",
        LiteralNotation(("<escape>",), has_escapes=False),
        "call:",
        brackets="{}",
        equals=":",
    ),
    "longcat": PairCalls(
        "<longcat_tool_call>",
        "</longcat_tool_call>",
        "<longcat_arg_key>",
        "</longcat_arg_key>",
        "<longcat_arg_value>",
        "</longcat_arg_value>",
    ),
    "glm": PairCalls("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "lfm2": LiteralCalls("<|tool_call_start|>", "<|tool_call_end|>", _PYTHON, in_list=True),
    "qwen3_coder": TaggedCalls(
        "<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>", has_line_breaks=True
    ),
    "kimi": HeadedCalls(
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
    "deepseek": HeadedCalls(
        "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    ),
    "minicpm5": TaggedCalls("", "", "<function name=", "</function>", "<param", "</param>"),
    "mistral": HeadedCalls("[TOOL_CALLS]", "", "", "[ARGS]", ""),
    "cohere": JsonCalls("<|START_ACTION|>", "<|END_ACTION|>", name_key="tool_name", arguments_key="parameters", is_list=True),
    "granite": JsonCalls("<|tool_call|>", "<|/tool_call|>", is_list=True),
    "hermes": JsonCalls("<tool_call>", "</tool_call>"),
    "llama": JsonCalls("<|python_tag|>", may_be_bare=True, arguments_key="parameters"),
    "pythonic": LiteralCalls("<|python_start|>", "<|python_end|>", _PYTHON, in_list=True, may_be_bare=True),
    "default": DEFAULT_CALLS,
}
"""By name; the names are LMX's own."""

_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("minimax", ("<minimax:tool_call>",)),
    ("dsml", ("<｜DSML｜",)),
    ("seed", ("<seed:tool_call>",)),
    ("atem", ("<atem:function_calls>",)),
    ("gemma4", ("<|tool_call>", "<tool_call|>")),
    ("function_gemma", ("<start_function_call>",)),
    ("longcat", ("<longcat_tool_call>",)),
    ("glm", ("<arg_key>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("lfm2", ("<|tool_list_start|>",)),
    ("qwen3_coder", ("<tool_call>", "<function=", "<parameter=")),
    ("kimi", ("<|tool_calls_section_begin|>",)),
    ("deepseek", ("<｜tool▁calls▁begin｜>",)),
    ("minicpm5", ('<function name="', '<param name="')),
    ("mistral", ("[TOOL_CALLS]",)),
    ("cohere", ("<|START_ACTION|>",)),
    ("granite", ("<|tool_call|>",)),
    ("hermes", ("<tool_call>",)),
    ("llama", ("<|python_tag|>",)),
    ("llama", ('"parameters": dictionary',)),
    ("pythonic", ("[func_name1(",)),
)
"""What a template that speaks of tools must hold for a style; the first that fits is taken."""

_HARMONY_SIGNS = (harmony.CHANNEL, harmony.MESSAGE)


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """Immutable, shared between requests."""

    calls: CallStyle = DEFAULT_CALLS
    template_knows_tools: bool = False
    """The chat template shows tools, calls and results itself; else LMX's own prompt does (`tool_prompt`)."""
    reasoning: ReasoningMarks | None = None
    is_harmony: bool = False
    """Answers are messages with heads: see `harmony`, which then reads calls and reasoning."""

    @property
    def marks(self) -> frozenset[str]:
        """Every text that has to be seen in an answer, even where it is a control token."""
        marks = harmony.MARKS if self.is_harmony else tuple(self.calls.marks)
        return frozenset((*marks, *((self.reasoning.start, self.reasoning.end) if self.reasoning else ()))) - {""}

    def opens_reasoning(self, prompt: str) -> bool:
        """Whether the prompt ends inside the reasoning, because the template begins it."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.start)


def belongs_to_marks(control_token: str, marks: frozenset[str]) -> bool:
    """Whether a control token is one of the marks or a part of one, so that its text has to be seen."""
    return bool(control_token) and any(control_token in mark for mark in marks)


def answer_format(template: str, has_token: Callable[[str], bool]) -> AnswerFormat:
    """What this chat template tells; `has_token` says whether the vocabulary holds a text as one token."""
    if all(sign in template for sign in _HARMONY_SIGNS):
        return AnswerFormat(template_knows_tools="tools" in template, is_harmony=True)
    reasoning = reasoning_marks(template, has_token)
    style = next((name for name, signs in _SIGNS if all(sign in template for sign in signs)), None)
    if style is None or "tools" not in template:
        return AnswerFormat(reasoning=reasoning)
    return AnswerFormat(calls=CALL_STYLES[style], template_knows_tools=True, reasoning=reasoning)
