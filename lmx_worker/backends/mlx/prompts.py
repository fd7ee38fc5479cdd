"""From a request to prompt tokens: chat template, tokenizer, and every check that can be made before the engine sees it.

Runs on the prepare thread beside the engine and therefore never touches MLX, whose arrays belong to the thread that made them.
"""

from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import DEFAULT_MAX_TOKENS
from lmx_protocol.messages import GenerateRequest, OutputForm, Sampling
from lmx_worker.backends.base import Prepared, RequestError, check_prompt_tokens
from lmx_worker.backends.mlx.forms import open_grammar_tokenizer
from lmx_worker.text.answer_reader import PLAIN, Reading
from lmx_worker.text.chat import Chat
from lmx_worker.text.grammar import FormCompiler
from lmx_worker.text.template import CONVENTION


class PromptEncoder:
    """Prepares requests for one loaded model."""

    def __init__(self, tokenizer: Any, *, context_length: int, vocabulary_size: int) -> None:
        self._forms = FormCompiler(lambda: open_grammar_tokenizer(tokenizer, vocabulary_size=vocabulary_size))
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._vocabulary_size = vocabulary_size
        self._chat = _chat_of(tokenizer)

    @property
    def marks(self) -> frozenset[str]:
        """What has to be seen in answers, even where it is a control token."""
        return self._chat.format.marks

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Template, tokenize and validate.

        Raises:
            RequestError: `INVALID_REQUEST` (the template refuses the messages, or nothing is left to compute), `INVALID_VALUE`
                (a sampling value), `CONTEXT_LENGTH_EXCEEDED`.
        """
        self._check_sampling(request.sampling)
        param = _param(request)
        tokens, reading, form = self._prompt(request)
        if not tokens:
            raise RequestError(ErrorCode.INVALID_REQUEST, f"the {param} holds no tokens", param)
        if max(tokens) >= self._vocabulary_size:
            raise RequestError(
                ErrorCode.INVALID_REQUEST,
                f"the {param} holds token {max(tokens)}, but the model knows {self._vocabulary_size}",
                param,
            )
        room = self._context_length - len(tokens)
        if room < 1:
            raise RequestError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"the prompt has {len(tokens)} tokens and the context {self._context_length}: no room for an answer",
                param,
            )
        wanted = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        if wanted < 1:
            raise RequestError(ErrorCode.INVALID_VALUE, f"max_tokens is {wanted}; it must be at least 1", "max_tokens")
        if request.logprobs is not None:
            self._open_token_bytes()
        constraint = self._forms.compile(form)
        return Prepared(request=request, tokens=tokens, max_tokens=min(wanted, room), reading=reading, constraint=constraint)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of any token; of a control token its name. For requests that were prepared with log-probabilities."""
        return bytes(self._forms.tokenizer().decode_bytes([token]))

    def count(self, request: GenerateRequest) -> int:
        """How many tokens the prompt has. Raises `RequestError`."""
        return len(self._prompt(request)[0])

    def _prompt(self, request: GenerateRequest) -> tuple[list[int], Reading, OutputForm]:
        """The prompt's tokens, how the answer is to be read, and what it is held to."""
        try:
            return self._encode(request)
        except RequestError:
            raise
        # The tokenizer is the model's and the text is the client's: what comes of them together can be anything.
        except Exception as error:
            param = _param(request)
            raise RequestError(ErrorCode.INVALID_REQUEST, f"the {param} cannot be encoded: {error}", param) from error

    def _encode(self, request: GenerateRequest) -> tuple[list[int], Reading, OutputForm]:
        tokenizer = self._tokenizer
        if request.messages:
            prompt = self._chat.write(request)
            return list(tokenizer.encode(prompt.text, add_special_tokens=False)), prompt.reading, prompt.form
        if request.prompt is None:
            return list(check_prompt_tokens(request.prompt_tokens, self._vocabulary_size)), PLAIN, request.output
        bos = tokenizer.bos_token
        has_bos = bool(bos) and request.prompt.startswith(bos)
        return list(tokenizer.encode(request.prompt, add_special_tokens=not has_bos)), PLAIN, request.output

    def _open_token_bytes(self) -> None:
        """Make the exact bytes of tokens known, on this thread: it takes about a second."""
        try:
            self._forms.tokenizer()
        except RequestError as error:
            raise RequestError(error.code, f"No log-probabilities: {error}", "logprobs") from error

    def _check_sampling(self, sampling: Sampling) -> None:
        if sampling.repeat_penalty <= 0.0:
            raise RequestError(ErrorCode.INVALID_VALUE, "repeat_penalty must be greater than 0", "repeat_penalty")
        for token, _ in sampling.logit_bias:
            if not 0 <= token < self._vocabulary_size:
                raise RequestError(
                    ErrorCode.INVALID_VALUE,
                    f"logit_bias names token {token}, but the model's tokens are 0 to {self._vocabulary_size - 1}",
                    "logit_bias",
                )


def _param(request: GenerateRequest) -> str:
    return "messages" if request.messages else "prompt"


def _chat_of(tokenizer: Any) -> Chat:
    """The chat template of the model's files, or the code that stands in for one."""
    templates = tokenizer.chat_template
    named = templates if isinstance(templates, dict) else {"default": templates}
    is_code = templates is None and tokenizer.has_chat_template

    def render(variables: dict[str, Any]) -> str:
        further = {name: value for name, value in variables.items() if name not in CONVENTION}
        text: str = tokenizer.apply_chat_template(
            variables["messages"], add_generation_prompt=variables["add_generation_prompt"], tokenize=False, **further
        )
        return text

    return Chat(
        named.get("default"),
        bos_token=tokenizer.bos_token or "",
        eos_token=tokenizer.eos_token or "",
        has_token=tokenizer.get_vocab().__contains__,
        tool_template=named.get("tool_use"),
        render=render if is_code else None,
    )
