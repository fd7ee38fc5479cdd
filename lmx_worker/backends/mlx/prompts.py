"""From a request to prompt tokens: chat template, tokenizer, and every check that can be made before the engine sees it.

Runs on the prepare thread beside the engine and therefore never touches MLX, whose arrays belong to the thread that made them.
"""

from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import DEFAULT_MAX_TOKENS
from lmx_protocol.messages import GenerateRequest, Message, Sampling
from lmx_worker.backends.base import Prepared, RequestError
from lmx_worker.backends.mlx.forms import open_grammar_tokenizer
from lmx_worker.text.grammar import FormCompiler
from lmx_worker.text.template import CHATML


class PromptEncoder:
    """Prepares requests for one loaded model."""

    def __init__(self, tokenizer: Any, *, context_length: int, vocabulary_size: int) -> None:
        self._forms = FormCompiler(lambda: open_grammar_tokenizer(tokenizer, vocabulary_size=vocabulary_size))
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._vocabulary_size = vocabulary_size

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Template, tokenize and validate.

        Raises:
            RequestError: `INVALID_REQUEST` (the template refuses the messages, or nothing is left to compute), `INVALID_VALUE`
                (a sampling value), `CONTEXT_LENGTH_EXCEEDED`.
        """
        self._check_sampling(request.sampling)
        param = _param(request)
        tokens = self._tokens(request)
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
        constraint = self._forms.compile(request.output)
        return Prepared(request=request, tokens=tokens, max_tokens=min(wanted, room), constraint=constraint)

    def count(self, request: GenerateRequest) -> int:
        """How many tokens the prompt has. Raises `RequestError`."""
        return len(self._tokens(request))

    def _tokens(self, request: GenerateRequest) -> list[int]:
        try:
            return self._encode(request)
        # The template is the model's code and the text is the client's: what they raise together can be anything.
        except Exception as error:
            param = _param(request)
            raise RequestError(ErrorCode.INVALID_REQUEST, f"the {param} cannot be encoded: {error}", param) from error

    def _encode(self, request: GenerateRequest) -> list[int]:
        tokenizer = self._tokenizer
        if request.prompt is not None:
            bos = tokenizer.bos_token
            has_bos = bool(bos) and request.prompt.startswith(bos)
            return list(tokenizer.encode(request.prompt, add_special_tokens=not has_bos))
        own_template = {} if tokenizer.has_chat_template else {"chat_template": CHATML}
        turns = [_turn(message) for message in request.messages]
        return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, **own_template))

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
    return "messages" if request.prompt is None else "prompt"


def _turn(message: Message) -> dict[str, str]:
    turn = {"role": message.role, "content": message.content}
    return turn if message.name is None else {**turn, "name": message.name}
