"""A validated chat body as the neutral `GenerateRequest`. What cannot be done is refused here, never ignored. Pure."""

from typing import Any

from msgspec import Raw

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, Sampling
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_chat_schema import ChatBody, ChatMessage, bias_decoder, stop_decoder
from lmx_supervisor.gateway.problem import Problem

RANDOM_SEED = -1

_EMPTY_JSON = frozenset({b"null", b"[]", b"{}", b'""'})


def to_generate_request(body: ChatBody, request_id: str, *, context_length: int | None) -> GenerateRequest:
    """The request that `body` asks for. Raises `Problem` (400 `not_supported` or `invalid_value`, with `param`).

    `context_length` is that of the model as it is loaded, in tokens; None when it is not known.
    """
    _refuse_unsupported(body)
    if body.num_ctx is not None and context_length is not None and body.num_ctx > context_length:
        message = (
            f"num_ctx: {body.model} is loaded with a context of {context_length} tokens, and a request does not reload it; "
            "unload it and load it with max_context_length."
        )
        raise Problem(ErrorCode.INVALID_VALUE, message, param="num_ctx")
    return GenerateRequest(
        request_id=request_id,
        model_id=body.model,
        messages=tuple(_to_message(message, index) for index, message in enumerate(body.messages)),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=_stop_strings(body.stop),
        sampling=_sampling(body),
    )


def _stop_strings(raw: Raw) -> tuple[str, ...]:
    stop = decode_field("stop", raw, stop_decoder)
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _sampling(body: ChatBody) -> Sampling:
    """The client's choices over the defaults."""
    chosen: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "repeat_penalty": body.repetition_penalty,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "seed": None if body.seed == RANDOM_SEED else body.seed,
    }
    biases = decode_field("logit_bias", body.logit_bias, bias_decoder) or {}
    bias = tuple(sorted((int(token), value) for token, value in biases.items()))
    return Sampling(logit_bias=bias, **{name: value for name, value in chosen.items() if value is not None})


def _to_message(message: ChatMessage, index: int) -> Message:
    for field in ("tool_calls", "function_call", "audio"):
        if _is_given(getattr(message, field)):
            raise _not_supported(f"messages.{index}.{field}")
    # `developer` is OpenAI's newer name for `system`; chat templates know only the latter.
    role = "system" if message.role == "developer" else message.role
    return Message(role=role, content=_content(message, index), name=message.name)


def _content(message: ChatMessage, index: int) -> str:
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for position, part in enumerate(message.content):
        param = f"messages.{index}.content.{position}"
        if part.type != "text":
            raise _not_supported(f"{param}.type", f"content parts of type {part.type!r} are not supported; send text.")
        if part.text is None:
            raise Problem(ErrorCode.INVALID_REQUEST, f"{param}.text: this field is required.", param=f"{param}.text")
        texts.append(part.text)
    return "\n".join(texts)


def _refuse_unsupported(body: ChatBody) -> None:
    for field in ("tools", "functions", "function_call", "audio", "web_search_options", "grammar", "json_schema"):
        if _is_given(getattr(body, field)):
            raise _not_supported(field)
    if _is_given(body.tool_choice) and bytes(body.tool_choice) != b'"none"':
        raise _not_supported("tool_choice")
    if body.response_format is not None and body.response_format.type != "text":
        raise _not_supported("response_format", "only the type 'text' is supported.")
    if body.modalities is not None and body.modalities != ["text"]:
        raise _not_supported("modalities", "only ['text'] is supported.")
    if body.logprobs:
        raise _not_supported("logprobs")
    if body.top_logprobs:
        raise _not_supported("top_logprobs")
    if body.n is not None and body.n > 1:
        raise _not_supported("n", "one choice per request is supported; send several requests, they are decoded together.")


def _is_given(raw: Any) -> bool:
    return bytes(raw).replace(b" ", b"") not in _EMPTY_JSON


def _not_supported(param: str, reason: str = "this is not supported yet; leave it out.") -> Problem:
    return Problem(ErrorCode.NOT_SUPPORTED, f"{param}: {reason}", param=param)
