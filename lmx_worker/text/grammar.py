"""Output forms, from the request to a constraint on tokens. The grammars are llguidance's; here they are chosen and bounded.

Runs on the prepare thread. The model's vocabulary is brought into llguidance's form once, when the first request needs it: that
takes about a second for 100,000 tokens, and most models are never asked.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import FAILURE_MESSAGE_CHARACTERS_MAX, OUTPUT_FORM_BYTES_MAX, OUTPUT_FORMS_REMEMBERED
from lmx_protocol.messages import OutputForm
from lmx_protocol.states import OutputKind
from lmx_worker.backends.base import ErrorDelta, RequestError
from lmx_worker.text.constraint import Constraint, in_one_line
from lmx_worker.text.form_trial import fails

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

FORM_PARAM = "response_format"
_HARMLESS_CHARACTERS = 2048
_ANY_OBJECT = '{"type": "object"}'
_JSON_OPTIONS: "JsonCompileOptions" = {
    # Between two tokens of JSON at most this much: a model that has lost its way fills its answer with white space otherwise.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,20}",
    "whitespace_flexible": True,
    "item_separator": ",",
    "key_separator": ":",
    # What cannot be enforced is refused, not dropped; a schema's own "x-guidance" has no say in it.
    "lenient": False,
    "coerce_one_of": False,
}
_WHAT = {
    OutputKind.JSON_OBJECT: "JSON object form",
    OutputKind.JSON_SCHEMA: "JSON schema",
    OutputKind.REGEX: "regular expression",
    OutputKind.GRAMMAR: "grammar",
}


class FormCompiler:
    """Compiles the output forms of one model's requests."""

    def __init__(self, open_tokenizer: Callable[[], Any]) -> None:
        """`open_tokenizer` makes the model's `llguidance.LLTokenizer`; it is called once, when the first form comes."""
        self._open_tokenizer = open_tokenizer
        self._tokenizer: Any = None
        self._tried: dict[str, None] = {}

    def compile(self, form: OutputForm) -> Constraint | None:
        """The constraint for an answer that has not begun, or None for free text.

        Raises:
            RequestError: the form is broken, cannot be enforced, or is too large.
        """
        if form.kind is OutputKind.TEXT:
            return None
        from llguidance import LLMatcher, LLParserLimits

        size = len(form.source.encode())
        if size > OUTPUT_FORM_BYTES_MAX:
            raise _refusal(form, f"it has {size} bytes, and {OUTPUT_FORM_BYTES_MAX} are allowed")
        grammar = _grammar_of(form)
        self._try_elsewhere(form, grammar)
        limits = LLParserLimits(verbose_errors=False)
        constraint = Constraint(LLMatcher(self.tokenizer(), grammar, log_level=0, limits=limits))
        # The first mask is the dearest, and shows whether the form can be begun at all.
        constraint.allowed()
        if constraint.failure is not None:
            raise _refusal(form, constraint.failure)
        return constraint

    def tokenizer(self) -> Any:
        """The model's vocabulary in llguidance's form, made by the first call. On the prepare thread."""
        if self._tokenizer is None:
            self._tokenizer = self._open_tokenizer()
        return self._tokenizer

    def _try_elsewhere(self, form: OutputForm, grammar: str) -> None:
        """Let another process find out whether it can be compiled, once for each form that could do harm."""
        if _is_harmless(form) or grammar in self._tried:
            return
        reason = fails(grammar)
        if reason is not None:
            raise _refusal(form, reason)
        self._tried[grammar] = None
        if len(self._tried) > OUTPUT_FORMS_REMEMBERED:
            del self._tried[next(iter(self._tried))]


def form_failed(request_id: str, reason: str) -> ErrorDelta:
    """The end of a running request whose form cannot be followed any further."""
    message = f"The answer cannot be held to its form any longer: {reason}. Use a simpler form."
    return ErrorDelta(request_id, ErrorCode.INVALID_VALUE, message[:FAILURE_MESSAGE_CHARACTERS_MAX], FORM_PARAM)


def _grammar_of(form: OutputForm) -> str:
    from llguidance import LLMatcher

    if form.kind is OutputKind.REGEX:
        return LLMatcher.grammar_from_regex(form.source)
    if form.kind is OutputKind.GRAMMAR:
        return LLMatcher.grammar_from_lark(form.source)
    schema = _ANY_OBJECT if form.kind is OutputKind.JSON_OBJECT else form.source
    try:
        content = msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(form, f"it is no JSON: {error}") from error
    if content is True:
        schema = "{}"
    elif not isinstance(content, dict):
        raise _refusal(form, "a schema that can be met is a JSON object, or true")
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)
    except ValueError as error:
        raise _refusal(form, in_one_line(str(error))) from error


def _is_harmless(form: OutputForm) -> bool:
    """Whether a form needs no trial: a small schema without expressions, as most requests have, compiles in milliseconds."""
    if form.kind is OutputKind.JSON_OBJECT:
        return True
    is_small = len(form.source) <= _HARMLESS_CHARACTERS
    return form.kind is OutputKind.JSON_SCHEMA and is_small and "attern" not in form.source


def _refusal(form: OutputForm, reason: str) -> RequestError:
    message = f"The {_WHAT[form.kind]} cannot be used: {reason}."
    return RequestError(ErrorCode.INVALID_VALUE, message[:FAILURE_MESSAGE_CHARACTERS_MAX], FORM_PARAM)
