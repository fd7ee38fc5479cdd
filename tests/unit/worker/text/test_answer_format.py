"""Which format a model answers in, told by its chat template and its tokens."""

import pytest

from lmx_worker.text.answer_format import CALL_STYLES, DEFAULT_CALLS, AnswerFormat, answer_format, belongs_to_marks
from lmx_worker.text.reasoning import THINK_MARKS, ReasoningMarks


def format_of(template: str, *tokens: str) -> AnswerFormat:
    """What this template tells, in a model with these tokens."""
    return answer_format(template, tokens.__contains__)


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("{% if tools %}<tool_call>{{ tool_call.arguments | tojson }}</tool_call>{% endif %}", "hermes"),
        ("{{ tools }}<tool_call>\n<function=example>\n<parameter=p>\nv\n</parameter>", "qwen3_coder"),
        ("{{ tools }}<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>", "glm"),
        ("{{ tools }}[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral"),
        ("{{ tools }}<minimax:tool_call><invoke name=", "minimax"),
        ("{{ tools }}<｜tool▁calls▁begin｜>", "deepseek"),
        ("{{ tools }}<｜DSML｜function_calls>", "dsml"),
        ("{{ tools }}<|tool_calls_section_begin|>", "kimi"),
        ("{{ tools }}<start_function_call>call:", "function_gemma"),
        ("{{ tools }}<|tool_call>call:<tool_call|>", "gemma4"),
        ("{{ tools }}<|tool_call_start|>", "lfm2"),
        ("{{ tools }}<|START_ACTION|>", "cohere"),
        ("{{ tools }}<|tool_call|>", "granite"),
        ('{{ tools }}{"name": function name, "parameters": dictionary of argument name and its value}', "llama"),
        ("{{ tools }}[func_name1(params_name1=params_value1)]", "pythonic"),
    ],
)
def test_the_template_tells_the_style(template: str, style: str) -> None:
    """What the template shows the model as calls is what it will write."""
    found = format_of(template)
    assert (found.calls, found.template_knows_tools) == (CALL_STYLES[style], True)


def test_a_template_with_heads_is_harmony() -> None:
    """Messages with channels are a format of their own, for calls and reasoning both."""
    assert format_of("{{ tools }}<|channel|>final<|message|>").is_harmony


@pytest.mark.parametrize(
    "template", ["{{ messages }}", "{{ tools }} in a form that nobody knows", "<tool_call> but no variable"]
)
def test_everything_else_is_the_default(template: str) -> None:
    """A template that knows no tools, or in a form that is not known here, gets LMX's own prompt."""
    found = format_of(template)
    assert (found.calls, found.template_knows_tools) == (DEFAULT_CALLS, False)


@pytest.mark.parametrize(
    ("template", "tokens", "marks"),
    [
        ("{{ content.split('</think>') }}<think>", (), THINK_MARKS),
        ("", ("<think>", "</think>"), THINK_MARKS),
        ("", ("[THINK]", "[/THINK]"), ReasoningMarks("[THINK]", "[/THINK]")),
        ("<think>", ("</think>",), None),
        ("", (), None),
    ],
)
def test_reasoning_is_told_by_the_template_or_by_tokens(
    template: str, tokens: tuple[str, ...], marks: ReasoningMarks | None
) -> None:
    """Both marks must be known, in the text of the template or as tokens; else nothing is split off."""
    assert format_of(template, *tokens).reasoning == marks


def test_control_tokens_of_marks_are_to_be_seen() -> None:
    """Marks that are control tokens, whole or in part, are shown to the parser; other control tokens are not."""
    marks = format_of("{{ tools }}[TOOL_CALLS]<|channel>thought<channel|>").marks
    seen = [
        token
        for token in ("[TOOL_CALLS]", "[ARGS]", "<|channel>", "<channel|>", "<|eot|>", "")
        if belongs_to_marks(token, marks)
    ]
    assert seen == ["[TOOL_CALLS]", "[ARGS]", "<|channel>", "<channel|>"]
