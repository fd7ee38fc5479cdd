"""A validated legacy completion body as neutral requests: prompts x candidates, in order. What cannot be is refused. Pure."""

import msgspec
from msgspec import Raw

from lmx_protocol import limits
from lmx_protocol.messages import GenerateRequest
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_completions_schema import (
    CompletionBody,
    text_decoder,
    texts_decoder,
    token_lists_decoder,
    tokens_decoder,
)
from lmx_supervisor.gateway.dialects.openai_fields import as_choices, refuse_larger_context, sampling, stop_strings
from lmx_supervisor.gateway.dialects.openai_inbound import invalid_value, not_supported
from lmx_supervisor.gateway.dialects.openai_output import output_form
from lmx_supervisor.gateway.model_choice import ChosenModel
from lmx_supervisor.gateway.problem import EdgeCode, Problem

Prompt = str | list[int]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a body comes to: `candidates` generations for each prompt, of which `shown` are answered with."""

    requests: list[GenerateRequest]
    candidates: int
    shown: int
    echoes: list[str]
    """What each prompt's answers begin with."""


def to_plan(body: CompletionBody, request_id: str, chosen: ChosenModel) -> Plan:
    """The generations that `body` asks of the model that was chosen for it. Raises `Problem` (400, with `param`)."""
    refuse_larger_context(body, chosen)
    if body.suffix:
        raise not_supported("suffix", "text is not filled in between two others; put what follows into the prompt.")
    prompts = _prompts(body.prompt, vocabulary_size=chosen.vocabulary_size)
    shown = body.n or 1
    candidates = _candidates(body, shown)
    if len(prompts) * candidates > limits.COMPLETIONS_MAX:
        reason = (
            f"{len(prompts)} prompts with {candidates} completions each are too many; "
            f"at most {limits.COMPLETIONS_MAX} completions are made in one request."
        )
        raise invalid_value("prompt", reason)
    for_each = GenerateRequest(
        request_id=request_id,
        model_id=chosen.model_id,
        max_tokens=body.max_tokens or chosen.defaults.max_tokens,
        stop=stop_strings(body, chosen.defaults),
        sampling=sampling(body, chosen.defaults),
        output=output_form(body),
        logprobs=0 if body.logprobs is None and candidates > shown else body.logprobs,
    )
    requests = [request for prompt in prompts for request in as_choices(_of_prompt(for_each, prompt, chosen), candidates)]
    return Plan(requests=_numbered(requests), candidates=candidates, shown=shown, echoes=_echoes(body, prompts))


def _candidates(body: CompletionBody, shown: int) -> int:
    if body.best_of is None:
        return shown
    if body.best_of < shown:
        raise invalid_value("best_of", f"the best {shown} (`n`) cannot be chosen from {body.best_of}.")
    if body.stream and body.best_of > shown:
        raise invalid_value("best_of", "the best is known when all are whole, so they cannot be streamed.")
    return body.best_of


def _prompts(raw: Raw, *, vocabulary_size: int) -> list[Prompt]:
    """One decoder for each form, so that what does not fit is found where it stands instead of being built first."""
    data = bytes(raw)
    if data.startswith(b'"'):
        return [decode_field("prompt", raw, text_decoder, bytes_max=limits.BODY_BYTES_MAX)]
    first = data[1:].lstrip()[:1]
    if first == b"]":
        raise Problem(EdgeCode.INVALID_INPUT, "prompt: there is nothing to complete; send a text.", param="prompt")
    if first == b"[":
        return [*_token_lists(raw, data, vocabulary_size)]
    if first == b'"':
        return [*decode_field("prompt", raw, texts_decoder, bytes_max=limits.PROMPT_ARRAY_BYTES_MAX)]
    tokens = decode_field("prompt", raw, tokens_decoder, bytes_max=limits.PROMPT_ARRAY_BYTES_MAX)
    _check_tokens(tokens, "prompt", vocabulary_size)
    return [tokens]


def _token_lists(raw: Raw, data: bytes, vocabulary_size: int) -> list[list[int]]:
    # Counted before they are built: a million empty lists take seconds.
    if data.count(b"[") > limits.COMPLETIONS_MAX + 1:
        raise invalid_value(
            "prompt", f"these are too many; at most {limits.COMPLETIONS_MAX} completions are made in one request."
        )
    lists = decode_field("prompt", raw, token_lists_decoder, bytes_max=limits.PROMPT_ARRAY_BYTES_MAX)
    for index, tokens in enumerate(lists):
        _check_tokens(tokens, f"prompt.{index}", vocabulary_size)
    return lists


def _check_tokens(tokens: list[int], param: str, vocabulary_size: int) -> None:
    if not tokens:
        raise Problem(EdgeCode.INVALID_INPUT, f"{param}: there are no tokens to complete.", param=param)
    if vocabulary_size and max(tokens) >= vocabulary_size:
        raise invalid_value(param, f"there is no token {max(tokens)}; the model has {vocabulary_size}, counted from 0.")


def _of_prompt(request: GenerateRequest, prompt: Prompt, chosen: ChosenModel) -> GenerateRequest:
    """A text has no place for a system prompt but its beginning."""
    if isinstance(prompt, str):
        begun = f"{chosen.system_prompt}\n\n{prompt}" if chosen.system_prompt else prompt
        return msgspec.structs.replace(request, prompt=begun)
    if chosen.system_prompt:
        raise not_supported("prompt", "the preset's system prompt cannot be put before tokens; send the prompt as text.")
    return msgspec.structs.replace(request, prompt_tokens=tuple(prompt))


def _numbered(requests: list[GenerateRequest]) -> list[GenerateRequest]:
    """With an id of its own for each; the first keeps the one that the client sees."""
    first, *others = requests
    return [
        first,
        *(
            msgspec.structs.replace(request, request_id=f"{first.request_id}-{index}")
            for index, request in enumerate(others, start=1)
        ),
    ]


def _echoes(body: CompletionBody, prompts: list[Prompt]) -> list[str]:
    if not body.echo:
        return [""] * len(prompts)
    if body.logprobs is not None:
        raise not_supported("echo", "log-probabilities of the prompt are not computed; leave out `echo` or `logprobs`.")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise not_supported("echo", "a prompt of tokens is not turned into text; send it as text, or leave out `echo`.")
    return texts
