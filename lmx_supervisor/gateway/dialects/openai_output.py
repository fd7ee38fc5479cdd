"""The form an answer is held to: OpenAI's `response_format`, and the names that clients of vLLM and llama-server use. Pure.

A schema is enforced whether or not the client says `strict`. At most one form per request.
"""

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_protocol.messages import OutputForm
from lmx_protocol.states import OutputKind
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_inbound import ABSENT, Inbound, invalid_value, is_given, not_supported, required
from lmx_supervisor.gateway.dialects.openai_schemas import schema_text

Expression = Annotated[str, Meta(min_length=1, max_length=limits.EXPRESSION_CHARACTERS_MAX)]
Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=limits.OUTPUT_CHOICES_MAX)]

_RESPONSE_FORMAT = "response_format"
_REGEX_META_CHARACTERS = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")


class NamedSchema(Inbound, frozen=True, kw_only=True):
    """OpenAI's wrapping of a schema."""

    name: str | None = None
    description: str | None = None
    schema: Raw = ABSENT
    strict: bool | None = None


class ResponseFormat(Inbound, frozen=True, kw_only=True):
    """OpenAI's field; `schema` beside `type` is llama-server's way."""

    type: str
    json_schema: NamedSchema | None = None
    schema: Raw = ABSENT


class StructuredOutputs(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vLLM's field."""

    json: Raw = ABSENT
    json_object: bool | None = None
    regex: Expression | None = None
    choice: Raw = ABSENT
    grammar: Expression | None = None


class OutputFields(Inbound, frozen=True, kw_only=True):
    """Every field of a request that may say a form."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Raw = ABSENT
    guided_regex: Expression | None = None
    guided_choice: Raw = ABSENT
    guided_grammar: Expression | None = None
    json_schema: Raw = ABSENT
    grammar: Raw = ABSENT


_choices_decoder = msgspec.json.Decoder(Choices)
_json_text_decoder = msgspec.json.Decoder(str)


def output_form(fields: OutputFields) -> OutputForm:
    """The form that a request asks for, in whatever field. Raises `Problem`."""
    forms = _forms(fields)
    if is_given(fields.grammar):
        raise not_supported(
            "grammar", "grammars in GBNF are not supported; send one in Lark form as structured_outputs.grammar."
        )
    if len(forms) > 1:
        *_, last = forms
        raise invalid_value(last, f"an answer has one form, and {' and '.join(forms)} ask for several; send one of them.")
    return next(iter(forms.values()), OutputForm())


def output_params(fields: OutputFields) -> dict[str, str]:
    """What a refusal of the form is to call it: the field in which it was asked for. `fields` have a valid form."""
    asked = next(iter(_forms(fields)), _RESPONSE_FORMAT)
    return {"output": asked, _RESPONSE_FORMAT: asked}


def _forms(fields: OutputFields) -> dict[str, OutputForm]:
    """All forms that are asked for, by field."""
    forms = _guided_forms(fields)
    if fields.response_format is not None:
        form = _response_format(fields.response_format)
        if form.kind is not OutputKind.TEXT:
            forms[_RESPONSE_FORMAT] = form
    return forms


def _response_format(wanted: ResponseFormat) -> OutputForm:
    match wanted.type:
        case "text":
            return OutputForm()
        case "json_object":
            if is_given(wanted.schema):
                return _schema_form(wanted.schema, "response_format.schema")
            return OutputForm(kind=OutputKind.JSON_OBJECT)
        case "json_schema":
            param = "response_format.json_schema"
            if wanted.json_schema is None:
                raise required(param)
            if bytes(wanted.json_schema.schema) == b"null":
                raise required(f"{param}.schema")
            return _schema_form(wanted.json_schema.schema, f"{param}.schema")
        case other:
            known = "text, json_object and json_schema"
            raise not_supported("response_format.type", f"{other[:64]!r} is not supported; {known} are.")


def _guided_forms(fields: OutputFields) -> dict[str, OutputForm]:
    """The forms that are asked for with vLLM's and llama-server's names, by field."""
    wanted = fields.structured_outputs or StructuredOutputs()
    forms: dict[str, OutputForm] = {}
    for param, schema in (
        ("structured_outputs.json", wanted.json),
        ("guided_json", fields.guided_json),
        ("json_schema", fields.json_schema),
    ):
        if bytes(schema) != b"null":
            forms[param] = _schema_form(_unquoted(schema, param), param)
    if wanted.json_object:
        forms["structured_outputs.json_object"] = OutputForm(kind=OutputKind.JSON_OBJECT)
    for param, choice in (("structured_outputs.choice", wanted.choice), ("guided_choice", fields.guided_choice)):
        if bytes(choice) != b"null":
            forms[param] = OutputForm(kind=OutputKind.REGEX, source=_any_of(decode_field(param, choice, _choices_decoder)))
    for param, kind, source in (
        ("structured_outputs.regex", OutputKind.REGEX, wanted.regex),
        ("guided_regex", OutputKind.REGEX, fields.guided_regex),
        ("structured_outputs.grammar", OutputKind.GRAMMAR, wanted.grammar),
        ("guided_grammar", OutputKind.GRAMMAR, fields.guided_grammar),
    ):
        if source is not None:
            forms[param] = OutputForm(kind=kind, source=source)
    return forms


def _unquoted(schema: Raw, param: str) -> Raw:
    """vLLM's clients may send a schema as a string that holds its JSON."""
    if bytes(schema)[:1] != b'"':
        return schema
    return Raw(decode_field(param, schema, _json_text_decoder, bytes_max=limits.SCHEMA_BYTES_MAX).encode())


def _schema_form(schema: Raw, param: str) -> OutputForm:
    return OutputForm(kind=OutputKind.JSON_SCHEMA, source=schema_text(schema, param))


def _any_of(choices: list[str]) -> str:
    return "|".join(_REGEX_META_CHARACTERS.sub(lambda character: f"\\{character[0]}", choice) for choice in choices)
