"""From a chat request to its prompt, and to how the answer is to be read. One for each loaded model, on every backend."""

from collections.abc import Callable
from dataclasses import dataclass

from lmx_protocol.messages import GenerateRequest, Message, OutputForm
from lmx_worker.backends.base import RequestError
from lmx_worker.text.answer_format import answer_format
from lmx_worker.text.answer_reader import Reading, offered_tools, reading_of
from lmx_worker.text.forcing import form_of
from lmx_worker.text.template import CHATML, ChatTemplate, Renderer, check_can_continue, parse_variables
from lmx_worker.text.tool_prompt import with_tool_prompt, without_system_turn


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The text of a prompt, and what is known of its answer beforehand."""

    text: str
    reading: Reading
    form: OutputForm
    """What the answer is held to, its calls and its reasoning included."""


class Chat:
    """Knows one model's manners. Thread-safe."""

    def __init__(
        self,
        template: str | None,
        *,
        bos_token: str,
        eos_token: str,
        has_token: Callable[[str], bool],
        tool_template: str | None = None,
        render: Renderer | None = None,
    ) -> None:
        """`tool_template` is for requests with tools, where a model has a template of its own for them.

        `render` stands in for a template, where a model's prompts are made by code.

        Raises:
            TemplateSyntaxError: a template does not compile.
        """
        source = template or (CHATML if render is None else "")
        self.format = answer_format(tool_template or source, has_token)
        self._template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token, render=render)
        self._tool_template = self._template
        if tool_template is not None:
            self._tool_template = ChatTemplate(tool_template, bos_token=bos_token, eos_token=eos_token)
        self._takes_system_turn = self._shows_system_turn()

    def write(self, request: GenerateRequest) -> ChatPrompt:
        """The prompt for a request's messages.

        Raises:
            RequestError: the template refuses them.
        """
        if request.continues_last_message:
            check_can_continue(request.messages)
        tools = offered_tools(request)
        messages = list(request.messages)
        variables = parse_variables(request.template_arguments)
        if self.format.template_knows_tools:
            template = self._tool_template if tools else self._template
            shown = tools
        else:
            template, shown = self._template, ()
            messages = with_tool_prompt(messages, tools)
            if tools and not self._takes_system_turn:
                messages = without_system_turn(messages)
        text = template.render(messages, tools=shown, variables=variables, continues_last=request.continues_last_message)
        begins_in_reasoning = self.format.opens_reasoning(text)
        return ChatPrompt(
            text,
            reading_of(request, self.format, begins_in_reasoning=begins_in_reasoning),
            form_of(request, self.format, begins_in_reasoning=begins_in_reasoning),
        )

    def _shows_system_turn(self) -> bool:
        probe = "\ufdd2"
        try:
            shown = self._template.render((Message(role="system", content=probe), Message(role="user", content="?")))
        except RequestError:
            return False
        return probe in shown
