"""Chat templates: the Jinja programs inside model files that turn messages into the prompt the model was trained on.

A template is a stranger's code. It runs in Jinja's immutable sandbox with the names the Hugging Face convention promises
(`messages`, `add_generation_prompt`, `bos_token`, `eos_token`, `tools`, `documents`, `raise_exception`, `strftime_now`,
`tojson`) and nothing else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Message, Tool
from lmx_worker.backends.base import RequestError
from lmx_worker.text.conversation import ConversationShape, tool_dicts

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a model file that carries no template: the format most instruction models understand."""

VARIABLES_PARAM = "template_arguments"

Renderer = Callable[[dict[str, Any]], str]
"""From the variables of a template to the prompt."""

CONVENTION = frozenset(("messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token"))
"""The variables that every template is given."""

_END_MARK = "\ufdd0\ufdd1\ufdd0"
"""Set at the end of the last message's words, to be found again in the prompt: code points that no text may hold."""


class TemplateSyntaxError(ValueError):
    """A model file's chat template cannot be compiled."""


class ChatTemplate:
    """One compiled chat template. Rendering is thread-safe."""

    def __init__(self, source: str, *, bos_token: str, eos_token: str, render: Renderer | None = None) -> None:
        """`render`, if given, does what the template would do. Raises `TemplateSyntaxError`."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._render = render or environment.from_string(source).render
        except jinja2.TemplateError as error:
            raise TemplateSyntaxError(f"the chat template does not compile: {error}") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._shape = ConversationShape(source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> str:
        """The prompt for these messages, ending where the assistant's answer begins, or goes on.

        `variables` are further names for the template; they cannot hide those of the convention.

        Raises:
            RequestError: the template refuses the messages (roles it does not know, a wrong order, ...).
        """
        turns = self._shape.turns(messages)
        if continues_last:
            turns[-1]["content"] = messages[-1].content + _END_MARK
        try:
            prompt = self._render(
                {
                    **(variables or {}),
                    **self._tokens,
                    "messages": turns,
                    "add_generation_prompt": not continues_last,
                    "tools": tool_dicts(tools) or None,
                    "documents": None,
                }
            )
        # The template is foreign code: whatever it raises, it says that it cannot take these messages.
        except Exception as error:
            raise RequestError(
                ErrorCode.INVALID_REQUEST, f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return _cut_at_end_mark(prompt) if continues_last else prompt


def parse_variables(text: str) -> dict[str, Any]:
    """The further template variables of a request. Raises `RequestError` when they are no JSON object."""
    try:
        variables = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise RequestError(
            ErrorCode.INVALID_REQUEST, f"the template's variables are no JSON: {error}", VARIABLES_PARAM
        ) from error
    if not isinstance(variables, dict):
        raise RequestError(ErrorCode.INVALID_REQUEST, "the template's variables must be an object", VARIABLES_PARAM)
    return variables


def check_can_continue(messages: Sequence[Message]) -> None:
    """Raises `RequestError` when the last message is not one that an answer can go on from."""
    if not messages or messages[-1].role != "assistant" or messages[-1].tool_calls:
        raise RequestError(
            ErrorCode.INVALID_REQUEST, "An answer can only go on from a last message of the assistant's words.", "messages"
        )


def _cut_at_end_mark(prompt: str) -> str:
    """The prompt up to the end of the last message's words."""
    said, mark, _ = prompt.partition(_END_MARK)
    if not mark:
        raise RequestError(
            ErrorCode.NOT_SUPPORTED,
            "This model's chat template does not let an answer go on from the last message.",
            "messages",
        )
    return said


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's words for training; for a prompt it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which models were never shown.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)
