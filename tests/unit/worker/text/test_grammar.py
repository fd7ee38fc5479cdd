"""Output forms on a vocabulary of single bytes: what a form lets through, and how a form that cannot be used is refused."""

import json
import sys
from typing import Any

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import OUTPUT_FORM_BYTES_MAX
from lmx_protocol.messages import OutputForm
from lmx_protocol.states import OutputKind
from lmx_worker.backends.base import RequestError
from lmx_worker.text import form_trial
from lmx_worker.text.constraint import Constraint
from lmx_worker.text.form_trial import TOO_COMPLEX, TOO_DEEP, open_bytes
from lmx_worker.text.grammar import FormCompiler, form_failed
from tests.support.schemas import SCHEMAS

END = 256
TOKENS = END + 1


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
        (OutputKind.JSON_SCHEMA, "true", "[null, 1e5]", "[null, 1e5"),
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
        (OutputKind.JSON_SCHEMA, "[1]", "is a JSON object"),
        (OutputKind.JSON_SCHEMA, "false", "is a JSON object"),
        (OutputKind.JSON_SCHEMA, '{"items":' * 5000 + "{}" + "}" * 5000, "recursion"),
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


def chain(length: int) -> str:
    """A schema that is a chain of references."""
    links = {f"a{link}": {"$ref": f"#/$defs/a{link + 1}"} for link in range(length)}
    return json.dumps({"$defs": {**links, f"a{length}": {"type": "null"}}, "$ref": "#/$defs/a0"}, separators=(",", ":"))


def terminals(count: int) -> str:
    """A grammar whose terminals contain each other twice: written out it would be endless."""
    lines = [f'T{number}: T{number + 1} "a" | T{number + 1}' for number in range(count)]
    return "\n".join(["start: T0", *lines, f'T{count}: "y"'])


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        (OutputKind.JSON_SCHEMA, chain(1900), TOO_DEEP),
        (OutputKind.GRAMMAR, terminals(2000), TOO_DEEP),
        (OutputKind.GRAMMAR, "start: T\nT: " + " & ".join(f"~/.*{number}.*/" for number in range(3000)), TOO_COMPLEX),
        (OutputKind.JSON_SCHEMA, json.dumps({"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(9)]}
                                                       for i in range(9)]}), "too large"),
        (OutputKind.REGEX, "(" * 5000 + ")" * 5000, "nest"),
        (OutputKind.GRAMMAR, "start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested"),
    ],
    ids=["references", "terminals", "negations", "combinations", "groups", "parentheses"],
)  # fmt: skip
def test_a_hostile_form_is_refused_and_nothing_else_happens(
    compiler: FormCompiler, kind: OutputKind, source: str, reason: str
) -> None:
    """What would overflow the stack of the worker or keep it busy for minutes is refused in time, and the next form works."""
    with pytest.raises(RequestError, match=reason) as caught:
        begin(compiler, kind, source)
    assert caught.value.param == "response_format"
    assert takes(begin(compiler, OutputKind.REGEX, "ok"), "ok")


def test_a_form_is_tried_elsewhere_once(compiler: FormCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request with the same expression costs no further process, and a plain small schema never one."""
    begin(compiler, OutputKind.REGEX, "once or [t]wice")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    begin(compiler, OutputKind.REGEX, "once or [t]wice")
    begin(compiler, OutputKind.JSON_SCHEMA, '{"type": "object"}')
    with pytest.raises(OSError, match="nonexistent"):
        form_trial.fails("anything")
