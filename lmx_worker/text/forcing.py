"""What an answer is held to when tools must be called, or their schemas kept: an output form in the model's own call format.

The form is a grammar in llguidance's Lark form. The arguments of a call follow the tool's schema; of a tool that is not
`strict`, what the schema says beyond what can be enforced is left out instead of refused. A model that thinks may think first.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import TOOL_CALLS_MAX
from lmx_protocol.messages import GenerateRequest, OutputForm, Tool
from lmx_protocol.states import OutputKind, ToolMode
from lmx_worker.backends.base import RequestError
from lmx_worker.text import harmony
from lmx_worker.text.answer_format import AnswerFormat
from lmx_worker.text.answer_reader import offered_tools
from lmx_worker.text.calls.headed_calls import HeadedCalls
from lmx_worker.text.calls.json_calls import JsonCalls
from lmx_worker.text.calls.literal_calls import LiteralCalls
from lmx_worker.text.calls.pair_calls import PairCalls
from lmx_worker.text.calls.tagged_calls import TaggedCalls
from lmx_worker.text.reasoning import ReasoningMarks
from lmx_worker.text.tool_book import schema_of

_ANYTHING = "/(?s:.*)/"
_HARMONY_THOUGHT = (
    f"({json.dumps(f'{harmony.CHANNEL}analysis{harmony.MESSAGE}')} thought {json.dumps(f'{harmony.START}assistant')})? "
)
_MUST_CALL = (ToolMode.REQUIRED, ToolMode.NAMED)


def form_of(request: GenerateRequest, format_: AnswerFormat, *, begins_in_reasoning: bool) -> OutputForm:
    """What the answer to a chat request is held to, calls and reasoning included.

    Raises:
        RequestError: what is asked for cannot be held to in this model's format.
    """
    tools = offered_tools(request)
    choice = request.tool_choice
    if tools and choice.mode in _MUST_CALL:
        if choice.mode is ToolMode.NAMED:
            tools = tuple(tool for tool in tools if tool.name == choice.name)
        calls_max = TOOL_CALLS_MAX if choice.parallel and choice.mode is ToolMode.REQUIRED else 1
        return _form(_CallGrammar(format_, tools).must(calls_max), format_.reasoning, is_open=begins_in_reasoning)
    calls_max = TOOL_CALLS_MAX if choice.parallel else 1
    if tools and request.output.kind is not OutputKind.TEXT:
        either = _CallGrammar(format_, tools).or_else(_rule("form", request.output), calls_max)
        return _form(either, format_.reasoning, is_open=begins_in_reasoning)
    if tools and any(tool.strict for tool in tools):
        return _form(_CallGrammar(format_, tools).may(calls_max), format_.reasoning, is_open=begins_in_reasoning)
    if begins_in_reasoning and request.output.kind is not OutputKind.TEXT:
        return _form(_rule("answer", request.output), format_.reasoning, is_open=True)
    return request.output


def _form(answer: str, reasoning: ReasoningMarks | None, *, is_open: bool) -> OutputForm:
    if reasoning is None:
        return OutputForm(kind=OutputKind.GRAMMAR, source=f"start: answer\n{answer}")
    think = f"think[suffix={_text(reasoning.end)}]: {_ANYTHING}"
    before = "think SPACE" if is_open else f"({_text(reasoning.start)} think SPACE)?"
    return OutputForm(kind=OutputKind.GRAMMAR, source=f"start: {before} answer\n{think}\nSPACE: /\\s*/\n{answer}")


def _rule(name: str, form: OutputForm) -> str:
    """A rule for what has this form."""
    match form.kind:
        case OutputKind.JSON_OBJECT:
            return f'{name}: %json {{"type": "object"}}'
        case OutputKind.JSON_SCHEMA:
            return f"{name}: %json {form.source}"
        case OutputKind.REGEX:
            return f"{name}: /{form.source.replace('/', chr(92) + '/')}/"
        case _:
            return f"{name}: %lark {{\n{form.source}\n}}"


class _CallGrammar:
    """The rules for calls of some tools in one format."""

    def __init__(self, format_: AnswerFormat, tools: Sequence[Tool]) -> None:
        self._style = format_.calls
        self._is_harmony = format_.is_harmony
        self._tools = tools
        self._around = ("", "\n", "")
        """What stands before the first call, between calls, and after the last."""
        self._only_one = False
        self._calls: list[tuple[str, str]] = []
        """Of each tool, how a call begins, and the rest of its rule."""
        self._rules: list[str] = []
        self._write()

    def must(self, calls_max: int) -> str:
        """All rules: at least one call and at most this many. The rule `answer` is the whole."""
        before, _, after = self._around
        think = _HARMONY_THOUGHT if self._is_harmony else ""
        return "\n".join((f"answer: {think}{_text(before)} call{self._more(calls_max)} {_text(after)}", *self._call_rules()))

    def or_else(self, form_rule: str, calls_max: int) -> str:
        """All rules: calls, or else what the rule `form` says."""
        return f"answer: calls | form\n{form_rule}\ncalls{self.must(calls_max).removeprefix('answer')}"

    def may(self, calls_max: int) -> str:
        """All rules: words, calls, or calls after words; a call that is begun is held to its schema."""
        opener = self._style.openers[0] if self._style.openers else ""
        if self._is_harmony or not opener or not all(head.startswith(opener) for head, _ in self._calls):
            message = "Strict tools can only be had in this model's format when a call is forced; use tool_choice required."
            raise RequestError(ErrorCode.NOT_SUPPORTED, message, "tools")
        bare = self._style.bare_opener
        no_bare_call = f" & ~/\\s*\\{bare}(?s:.*)/" if bare else ""
        firsts = [f"first{index}: {_text(head.removeprefix(opener))} {rest}" for index, (head, rest) in enumerate(self._calls)]
        return "\n".join(
            (
                f"answer: WORDS | words first{self._more(calls_max)}",
                f"WORDS: ~/(?s:.*){_expression(opener)}(?s:.*)/{no_bare_call}",
                f"words[suffix={_text(opener)}]: {_ANYTHING}",
                "first: " + " | ".join(f"first{index}" for index in range(len(firsts))),
                *firsts,
                *self._call_rules(),
            )
        )

    def _more(self, calls_max: int) -> str:
        if calls_max == 1 or self._only_one:
            return ""
        return f" ({_text(self._around[1])} call){{0,{calls_max - 1}}}"

    def _call_rules(self) -> list[str]:
        return [
            "call: " + " | ".join(f"call{index}" for index in range(len(self._calls))),
            *(f"call{index}: {_text(head)} {rest}" for index, (head, rest) in enumerate(self._calls)),
            *self._rules,
        ]

    def _write(self) -> None:
        match self._style:
            case _ if self._is_harmony:
                self._around = ("", f"{harmony.START}assistant", "")
                self._rules.append(f"thought[suffix={_text(harmony.END)}]: {_ANYTHING}")
                head = f"{harmony.CHANNEL}commentary to=functions.NAME {harmony.CONSTRAIN}json{harmony.MESSAGE}"
                self._whole_arguments(head, harmony.CALL)
            case JsonCalls():
                self._json(self._style)
            case HeadedCalls():
                self._headed(self._style)
            case TaggedCalls():
                self._tagged(self._style)
            case PairCalls():
                self._pairs(self._style)
            case LiteralCalls() if self._style.notation.has_escapes:
                self._code(self._style)
            case _:
                message = "Calls cannot be forced in this model's format; use tool_choice auto."
                raise RequestError(ErrorCode.NOT_SUPPORTED, message, "tool_choice")

    def _whole_arguments(self, head: str, after: str) -> None:
        """Calls with a name, which `head` holds as NAME, and with all arguments as JSON."""
        for index, tool in enumerate(self._tools):
            self._calls.append((head.replace("NAME", tool.name), f"arguments{index} {_text(after)}"))
            self._rules.append(f"arguments{index}: %json {_schema(schema_of(tool), tool.strict)}")

    def _json(self, style: JsonCalls) -> None:
        head = f'{{"{style.name_key}": "NAME", "{style.arguments_key}": '
        if style.is_list:
            self._around = (f"{style.opener}[", ", ", f"]{style.closer}")
            self._whole_arguments(head, "}")
        elif style.closer:
            self._whole_arguments(f"{style.opener}\n{head}", f"}}\n{style.closer}")
        else:
            self._around = ("", "; ", "")
            self._whole_arguments(head, "}")

    def _headed(self, style: HeadedCalls) -> None:
        if not style.call:
            self._around = ("", "", "")
            self._whole_arguments(f"{style.opener}NAME{style.head_end}", "")
            return
        self._around = (style.opener, "", style.closer)
        # Kimi numbers its calls, and the numbers are ids: with one call there is no doubt about them.
        self._only_one = "argument" in style.head_end
        name = "functions.NAME:0" if self._only_one else "NAME"
        self._whole_arguments(f"{style.call}{name}{style.head_end}", style.call_end)

    def _tagged(self, style: TaggedCalls) -> None:
        line = "\n" if style.has_line_breaks else ""
        opener, closer = (f"{style.section}\n", f"\n{style.section_end}") if style.section else ("", "")
        for tool in self._tools:
            arguments = self._arguments(
                tool, lambda name: f"{_tag(style.argument, name)}{line}", f"{line}{style.argument_end}\n"
            )
            head = f"{opener}{_tag(style.call, tool.name)}\n"
            self._calls.append((head, f"{arguments} {_text(style.call_end + closer)}"))

    def _pairs(self, style: PairCalls) -> None:
        for tool in self._tools:
            arguments = self._arguments(
                tool, lambda name: f"{style.key}{name}{style.key_end}\n{style.value}", f"{style.value_end}\n"
            )
            self._calls.append((f"{style.opener}{tool.name}\n", f"{arguments} {_text(style.closer)}"))

    def _code(self, style: LiteralCalls) -> None:
        """Only required arguments: code has commas between arguments, and any subset of the others could be missing."""
        self._around = (f"{style.opener}[", ", ", f"]{style.closer}")
        separator = f" {_text(', ')} "
        for tool in self._tools:
            parts = []
            for name, schema, is_required in _properties(tool):
                if is_required:
                    parts.append(f"{_text(f'{name}=')} {self._json_value(schema, tool)}")
            self._calls.append((f"{tool.name}(", f"{separator.join(parts)} {_text(')')}"))

    def _arguments(self, tool: Tool, before: Callable[[str], str], after: str) -> str:
        """The arguments of a call, each as plain text between marks."""
        parts = []
        for name, schema, is_required in _properties(tool):
            part = f"{_text(before(name))} {self._plain_value(schema, after, tool)}"
            parts.append(part if is_required else f"({part})?")
        return " ".join(parts)

    def _plain_value(self, schema: dict[str, Any], after: str, tool: Tool) -> str:
        """A value as plain text, with what comes after it."""
        values = schema.get("enum")
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            return f"({' | '.join(map(_text, values))}) {_text(after)}"
        if schema.get("type") == "string":
            rule = f"value{len(self._rules)}"
            self._rules.append(f"{rule}[suffix={_text(after)}]: {_ANYTHING}")
            return rule
        return f"{self._json_value(schema, tool)} {_text(after)}"

    def _json_value(self, schema: dict[str, Any], tool: Tool) -> str:
        rule = f"value{len(self._rules)}"
        self._rules.append(f"{rule}: %json {_schema(schema, tool.strict)}")
        return rule


def _tag(beginning: str, name: str) -> str:
    """A tag with a name, of which this is the beginning."""
    if beginning.endswith("name="):
        return f'{beginning}"{name}">'
    return f"{beginning}{name}>" if beginning.endswith("=") else f'{beginning} name="{name}">'


def _properties(tool: Tool) -> list[tuple[str, dict[str, Any], bool]]:
    """Name, schema and whether it is required, of each argument; the definitions that a schema refers to come with it."""
    root = schema_of(tool)
    definitions: dict[str, Any] = {key: root[key] for key in ("$defs", "definitions") if key in root}
    found, required = root.get("properties"), root.get("required", [])
    properties = found if isinstance(found, dict) else {}
    return [
        (name, {**schema, **definitions} if isinstance(schema, dict) else {}, name in required)
        for name, schema in properties.items()
    ]


def _expression(text: str) -> str:
    """A regular expression for this text, as it stands between slashes."""
    return re.escape(text).replace("/", "\\/")


def _schema(schema: dict[str, Any], strict: bool) -> str:
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": not strict}
    return json.dumps({**schema, "x-guidance": options})


def _text(text: str) -> str:
    """A literal of the grammar."""
    return json.dumps(text, ensure_ascii=False)
