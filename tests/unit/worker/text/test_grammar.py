"""Output forms on a vocabulary of single bytes: what a form lets through, and how a form that cannot be used is refused."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from llguidance import LLTokenizer, TokenizerWrapper

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import OUTPUT_FORM_BYTES_MAX
from lmx_protocol.messages import OutputForm
from lmx_protocol.states import OutputKind
from lmx_worker.backends.base import RequestError
from lmx_worker.text.constraint import Constraint
from lmx_worker.text.grammar import FormCompiler, form_failed
from tests.support.schemas import SCHEMAS

END = 256
TOKENS = END + 1


class ByteVocabulary:
    """A token for each byte, and one that ends the answer."""

    eos_token_id = END
    bos_token_id = None
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    special_token_ids = [END]  # noqa: RUF012 - llguidance only reads it

    def __call__(self, text: bytes | str) -> Sequence[int]:
        return list(text.encode() if isinstance(text, str) else text)


def open_bytes() -> Any:
    """The tokenizer of `ByteVocabulary`."""
    return LLTokenizer(TokenizerWrapper(ByteVocabulary()))


@pytest.fixture(scope="module")
def compiler() -> FormCompiler:
    """A compiler whose vocabulary is opened once."""
    return FormCompiler(open_bytes)


def begin(compiler: FormCompiler, kind: OutputKind, source: str = "") -> Constraint:
    """A constraint before its first token."""
    constraint = compiler.compile(OutputForm(kind=kind, source=source))
    assert constraint is not None
    return constraint


def may_follow(constraint: Constraint) -> set[int]:
    """The tokens that are allowed now."""
    allowed = constraint.allowed()
    return set() if allowed is None else {token for token in range(TOKENS) if allowed[token // 8] >> token % 8 & 1}


def takes(constraint: Constraint, text: str) -> bool:
    """Whether a whole text has the form, each of its bytes being allowed in its turn."""
    for byte in text.encode():
        if byte not in may_follow(constraint):
            return False
        constraint.accept(byte)
    return constraint.is_complete or END in may_follow(constraint)


@pytest.mark.parametrize(
    ("kind", "source", "good", "bad"),
    [
        (OutputKind.JSON_OBJECT, "", '{"a": [1, {"b": null}]}', "[1]"),
        (OutputKind.JSON_SCHEMA, '{"type": "boolean"}', "true", '"true"'),
        (OutputKind.REGEX, "[ab]+c?", "abbac", "abca"),
        (OutputKind.GRAMMAR, 'start: "<" start ">" | "-"', "<<->>", "<<->"),
    ],
)
def test_each_kind_lets_through_what_has_its_form(
    compiler: FormCompiler, kind: OutputKind, source: str, good: str, bad: str
) -> None:
    """A text of the form passes byte by byte to an end; one that is not is stopped, or may not end."""
    assert takes(begin(compiler, kind, source), good)
    assert not takes(begin(compiler, kind, source), bad)


def test_free_text_has_no_constraint_and_opens_nothing() -> None:
    """A request without a form costs nothing."""

    def open_never() -> Any:
        raise AssertionError("the vocabulary was opened")

    assert FormCompiler(open_never).compile(OutputForm()) is None


def test_the_end_is_allowed_only_where_the_form_allows_it(compiler: FormCompiler) -> None:
    """A number may go on or end; an object that is open may not end."""
    number = begin(compiler, OutputKind.REGEX, "[0-9]{1,2}")
    assert END not in may_follow(number)
    number.accept(ord("4"))
    assert END in may_follow(number)
    assert not number.is_complete
    number.accept(ord("2"))
    assert number.is_complete
    assert number.allowed() is None


def test_two_answers_of_one_form_do_not_touch(compiler: FormCompiler) -> None:
    """Each request has a state of its own."""
    first, second = (begin(compiler, OutputKind.REGEX, "ab") for _ in range(2))
    first.accept(ord("a"))
    assert may_follow(first) == {ord("b")}
    assert may_follow(second) == {ord("a")}


def test_a_token_that_does_not_fit_is_a_failure_that_stays(compiler: FormCompiler) -> None:
    """What should not happen is said, not hidden, and nothing is allowed afterwards."""
    constraint = begin(compiler, OutputKind.REGEX, "ab")
    constraint.accept(ord("x"))
    failure = constraint.failure
    assert failure is not None
    constraint.accept(ord("a"))
    assert (constraint.failure, constraint.allowed(), constraint.is_complete) == (failure, None, False)
    error = form_failed("r1", failure)
    assert (error.request_id, error.code, error.param) == ("r1", ErrorCode.INVALID_VALUE, "response_format")
    assert failure in error.message


def test_white_space_between_json_tokens_is_bounded(compiler: FormCompiler) -> None:
    """Twenty characters pass, which is a deep indentation; the twenty-first does not, so a lost model comes back."""
    assert takes(begin(compiler, OutputKind.JSON_OBJECT), "{" + " " * 20 + "}")
    assert not takes(begin(compiler, OutputKind.JSON_OBJECT), "{" + " " * 21 + "}")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_of_the_corpus_can_be_enforced(compiler: FormCompiler, name: str) -> None:
    """The corpus that the models are held to is no corpus of refusals."""
    assert may_follow(begin(compiler, OutputKind.JSON_SCHEMA, json.dumps(SCHEMAS[name])))


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        (OutputKind.JSON_SCHEMA, "{", "is no JSON"),
        (OutputKind.JSON_SCHEMA, "", "is no JSON"),
        (OutputKind.JSON_SCHEMA, "[1]", "a schema is a JSON object"),
        (OutputKind.JSON_SCHEMA, '{"type": "banana"}', "banana"),
        (OutputKind.JSON_SCHEMA, '{"not": {"type": "string"}}', "not"),
        (OutputKind.JSON_SCHEMA, '{"uniqueItems": true, "x-guidance": {"lenient": true}}', "uniqueItems"),
        (OutputKind.JSON_SCHEMA, '{"type": "integer", "minimum": 5, "maximum": 3}', "Unsatisfiable"),
        (OutputKind.JSON_SCHEMA, '{"$ref": "http://example.com/schema.json"}', "example.com"),
        (OutputKind.JSON_SCHEMA, '{"$ref": "#"}', "NoExtension"),
        (OutputKind.REGEX, "((", "unclosed group"),
        (OutputKind.REGEX, "(?=a)b", "look-around"),
        (OutputKind.GRAMMAR, "start: nowhere", "nowhere"),
        (OutputKind.GRAMMAR, "", "Empty"),
    ],
)
def test_a_form_that_cannot_be_enforced_is_refused_with_the_reason(
    compiler: FormCompiler, kind: OutputKind, source: str, reason: str
) -> None:
    """Broken, contradictory and unsupported forms are the client's to change; nothing of them is dropped silently."""
    with pytest.raises(RequestError, match=reason) as caught:
        begin(compiler, kind, source)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "response_format")
    assert "\n" not in str(caught.value)


def test_a_form_that_is_too_large_is_refused_unread(compiler: FormCompiler) -> None:
    """The bound counts bytes, and both numbers are in the message."""
    with pytest.raises(RequestError, match=str(OUTPUT_FORM_BYTES_MAX)):
        begin(compiler, OutputKind.REGEX, "ä" * (OUTPUT_FORM_BYTES_MAX // 2 + 1))
