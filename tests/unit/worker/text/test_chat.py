"""From chat requests to prompts: tools, calls, results and thoughts, for templates that know them and for those that do not."""

import json

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, Tool, ToolCall, ToolChoice
from lmx_protocol.states import ToolMode
from lmx_worker.backends.base import RequestError
from lmx_worker.text.chat import Chat
from lmx_worker.text.template import CHATML
from tests.support.answers import TOOLS, WEATHER

USER = Message(role="user", content="Paris?")
CALL = ToolCall(call_id="call_1", name="get_weather", arguments='{"city": "Paris", "x": [1, true]}')
CALLED = Message(role="assistant", content="", tool_calls=(CALL,))
RESULT = Message(role="tool", content="sunny", tool_call_id="call_1")
TURNS = (USER, CALLED, RESULT)

KNOWS_TOOLS = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}:{{ tool.function.parameters | tojson }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A template in the manner of Hermes and Qwen."""


def chat_of(template: str | None, *, tokens: tuple[str, ...] = (), tool_template: str | None = None) -> Chat:
    """A model with this template and these tokens."""
    return Chat(template, bos_token="<s>", eos_token="</s>", has_token=tokens.__contains__, tool_template=tool_template)


def ask(
    *messages: Message, tools: tuple[Tool, ...] = (), mode: ToolMode = ToolMode.AUTO, arguments: str = ""
) -> GenerateRequest:
    """A chat request."""
    return GenerateRequest(
        request_id="r",
        model_id="m",
        messages=messages,
        tools=tools,
        tool_choice=ToolChoice(mode=mode),
        template_arguments=arguments,
    )


def prompt(template: str | None, request: GenerateRequest) -> str:
    """The prompt a model with this template gets."""
    return chat_of(template).write(request).text


def test_a_template_that_knows_tools_is_given_them() -> None:
    """Tools come as OpenAI has them, arguments of earlier calls as objects."""
    assert prompt(KNOWS_TOOLS, ask(*TURNS, tools=(WEATHER,))) == (
        f"[get_weather:{WEATHER.parameters}]<user>Paris?"
        '<assistant><tool_call>get_weather {"city": "Paris", "x": [1, true]}</tool_call><tool>sunny<assistant>'
    )


@pytest.mark.parametrize(
    "expression",
    ["{{ a }}", "{{ '' + a + '' }}", "{{ a | tojson }}", "{{ a if a is string else a | tojson }}", "{{ a | string }}"],
)
def test_arguments_are_their_json_whatever_a_template_does_with_them(expression: str) -> None:
    """Printed, concatenated, tested or turned into JSON: the model sees the call's JSON text."""
    template = "<tool_call>{% set a = messages[1].tool_calls[0].function.arguments %}" + expression + "{{ tools }}"
    assert prompt(template, ask(*TURNS)) == "<tool_call>" + CALL.arguments + "None"


def test_arguments_that_are_no_json_are_shown_as_they_are() -> None:
    """A call that the model got wrong earlier does not end the conversation."""
    broken = Message(role="assistant", content="", tool_calls=(ToolCall(call_id="c", name="f", arguments='{"a'),))
    template = "<tool_call>{{ messages[0].tool_calls[0].function.arguments }}{{ tools }}"
    assert prompt(template, ask(broken)) == '<tool_call>{"aNone'


def test_results_carry_the_name_of_their_call() -> None:
    """Templates that show a result under its tool's name find it, though clients send only the call's id."""
    assert prompt("<tool_call>{{ messages[2].name }}{{ tools }}", ask(*TURNS)) == "<tool_call>get_weatherNone"


def test_a_template_that_tests_for_no_content_finds_none() -> None:
    """A turn that is only calls has no content where the template asks so, and an empty one where it prints it."""
    asks = "<tool_call>{{ tools }}{% if messages[1]['content'] is none %}calls{% endif %}"
    assert prompt(asks, ask(*TURNS)) == "<tool_call>Nonecalls"
    assert prompt("<tool_call>{{ tools }}{{ messages[1].content }}", ask(*TURNS)) == "<tool_call>None"


def test_call_ids_are_made_to_fit_the_templates_that_count_them() -> None:
    """Where ids must have nine characters, a foreign one becomes such a one, the same for call and result."""
    template = (
        "[TOOL_CALLS]{{ tools }}{% set id = messages[1].tool_calls[0].id %}{% if id | length != 9 %}{{ raise_exception('id') }}"
        "{% endif %}{{ id == messages[2].tool_call_id }}"
    )
    assert prompt(template, ask(*TURNS)) == "[TOOL_CALLS]NoneTrue"


def test_earlier_thoughts_are_given_to_the_template() -> None:
    """Under the two names that templates know them by; nothing where there was no thought."""
    template = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}|{{ messages[1].thinking is defined }}"
    thought = Message(role="assistant", content="x", reasoning="hm")
    assert prompt(template, ask(thought, USER)) == "hm|hm|False"


def test_none_shows_no_tools_and_reads_no_calls() -> None:
    """With tool_choice none the prompt is that of a request without tools, and calls are text."""
    written = chat_of(KNOWS_TOOLS).write(ask(USER, tools=TOOLS, mode=ToolMode.NONE))
    assert (written.text, written.reading.tools) == ("<user>Paris?<assistant>", None)


def test_the_template_for_tools_is_taken_when_there_are_some() -> None:
    """Models with two templates are spoken to with the one for tools only when tools are offered."""
    chat = chat_of("plain", tool_template="<tool_call>{{ tools | length }}")
    assert [chat.write(ask(USER, tools=tools)).text for tools in ((), TOOLS)] == ["plain", "<tool_call>2"]


# --- models whose template does not know tools -----------------------------------------------------------------------------


def test_without_a_tool_template_the_default_prompt_tells_of_tools() -> None:
    """The system message ends with the tools and how to call them; calls and results are shown in words."""
    system = Message(role="system", content="Be brief.")
    text = prompt(CHATML, ask(system, *TURNS, RESULT, USER, tools=(WEATHER,)))
    head, _, rest = text.partition("<|im_end|>\n")
    assert head.startswith('<|im_start|>system\nBe brief.\n\nYou can call these tools:\n{"name": "get_weather", ')
    assert json.loads(head.split("\n")[4])["parameters"] == json.loads(WEATHER.parameters)
    assert rest == (
        "<|im_start|>user\nParis?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "x": [1, true]}}'
        "\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nParis?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_default_prompt_is_short() -> None:
    """Beside the tools themselves it costs less than 50 words."""
    with_tools, without = (prompt(CHATML, ask(USER, tools=tools)) for tools in ((Tool(name="f"),), ()))
    assert len(with_tools.split()) - len(without.split()) < 50


def test_calls_in_the_history_are_shown_although_no_tools_are_offered() -> None:
    """A conversation that used tools goes on without them."""
    assert "<tool_response>\nsunny" in prompt(CHATML, ask(*TURNS))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ raise_exception('no') if m.role == 'system' }}<{{ m.content }}>{% endfor %}",
        "{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}",
    ],
)
def test_a_template_without_system_turns_is_told_in_the_first_users_turn(template: str) -> None:
    """Whether it refuses system turns or drops them in silence: the model hears of its tools."""
    assert prompt(template, ask(USER, tools=TOOLS)).startswith("<You can call these tools:\n{")
    assert prompt(template, ask(USER, tools=TOOLS)).endswith("\n\nParis?>")


# --- further variables, continuing, reasoning --------------------------------------------------------------------------------


def test_further_variables_reach_the_template_and_hide_nothing() -> None:
    """`enable_thinking` and the like arrive; the convention's own names cannot be replaced."""
    template = "{{ enable_thinking }} {{ messages | length }} {{ bos_token }}"
    request = ask(USER, arguments='{"enable_thinking": false, "messages": [], "bos_token": "x"}')
    assert prompt(template, request) == "False 1 <s>"


@pytest.mark.parametrize("arguments", ["[1]", "{"])
def test_variables_that_are_no_object_are_refused(arguments: str) -> None:
    """The client is told which field is wrong."""
    with pytest.raises(RequestError) as caught:
        prompt(CHATML, ask(USER, arguments=arguments))
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, "template_arguments")


def test_an_answer_can_go_on_from_the_last_message() -> None:
    """The prompt ends with the assistant's words, without the end of its turn; the template's trimming is respected."""
    request = GenerateRequest(
        request_id="r", model_id="m", messages=(USER, Message(role="assistant", content="It is ")), continues_last_message=True
    )
    assert prompt(CHATML, request) == "<|im_start|>user\nParis?<|im_end|>\n<|im_start|>assistant\nIt is "


@pytest.mark.parametrize(
    ("template", "last", "code"),
    [
        (CHATML, USER, ErrorCode.INVALID_REQUEST),
        (CHATML, CALLED, ErrorCode.INVALID_REQUEST),
        ("{{ messages[0].content }}", Message(role="assistant", content="x"), ErrorCode.NOT_SUPPORTED),
    ],
)
def test_what_cannot_go_on_is_refused(template: str, last: Message, code: ErrorCode) -> None:
    """Only an assistant's words can be continued, and only by a template that shows them."""
    request = GenerateRequest(request_id="r", model_id="m", messages=(USER, last), continues_last_message=True)
    with pytest.raises(RequestError) as caught:
        prompt(template, request)
    assert (caught.value.code, caught.value.param) == (code, "messages")


@pytest.mark.parametrize(("thinking", "begins"), [("true", True), ("false", False)])
def test_reasoning_that_the_template_begins_is_known(thinking: str, begins: bool) -> None:
    """Whether the answer begins inside the reasoning depends on the prompt, not on the model alone."""
    template = "<assistant>\n<think>\n{% if not enable_thinking %}\n</think>\n\n{% endif %}"
    written = chat_of(template).write(ask(USER, arguments=f'{{"enable_thinking": {thinking}}}'))
    assert written.reading.begins_in_reasoning is begins
