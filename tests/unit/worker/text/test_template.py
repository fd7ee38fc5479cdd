"""Chat templates as model files carry them."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Message
from lmx_worker.backends.base import RequestError
from lmx_worker.text.template import CHATML, ChatTemplate, TemplateSyntaxError

HELLO = (Message(role="user", content="hello"),)


def render(source: str, *messages: Message) -> str:
    """The prompt a template makes."""
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages or HELLO)


def test_the_default_is_chatml() -> None:
    """Without a template of its own a model is spoken to in ChatML, up to where the answer begins."""
    prompt = render(CHATML, Message(role="system", content="be brief"), Message(role="user", content="hello"))
    assert prompt == ("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<s>hello</s>"),
        ("{% if true %}\n  {% if true %}\nx{% endif %}\n{% endif %}", "x"),
        ("{% for m in messages %}{% if m.role == 'user' %}{% break %}{% endif %}x{% endfor %}", ""),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hello"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ tools is none and documents is none }}", "True"),
        ("{{ messages[0].name is defined }}", "False"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_the_conventions_of_template_authors_hold(source: str, expected: str) -> None:
    """Whitespace control, loop controls, names and filters behave as in the library that templates are written for."""
    assert render(source) == expected


def test_a_name_reaches_the_template() -> None:
    """A message's name is there when the client sent one."""
    assert render("{{ messages[0].name }}", Message(role="user", content="x", name="ann")) == "ann"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ none + 'x' }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ nothing.there.at.all }}",
    ],
)
def test_a_refusal_is_the_clients_error(source: str) -> None:
    """Whatever a template raises, the sandbox's own refusals included, is a request error about the messages."""
    with pytest.raises(RequestError) as caught:
        render(source)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, "messages")


def test_the_templates_own_words_reach_the_client() -> None:
    """What the template says about the messages is in the error's message."""
    with pytest.raises(RequestError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_template_that_does_not_compile_is_named_at_load() -> None:
    """A syntax error is found once, when the model is loaded."""
    with pytest.raises(TemplateSyntaxError, match="does not compile"):
        render("{% if %}")
