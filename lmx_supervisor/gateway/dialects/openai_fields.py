"""Fields that OpenAI's chat and legacy completions share: their bounds, and what they mean in the neutral request. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from lmx_protocol import limits
from lmx_protocol.messages import GenerateRequest, Sampling
from lmx_supervisor.core.load_profile import GenerationDefaults
from lmx_supervisor.gateway.body import decode_field
from lmx_supervisor.gateway.dialects.openai_inbound import ABSENT, Inbound, invalid_value
from lmx_supervisor.gateway.dialects.openai_output import OutputFields
from lmx_supervisor.gateway.model_choice import ChosenModel

RANDOM_SEED = -1

ModelId = Annotated[str, Meta(min_length=1, max_length=limits.MODEL_ID_CHARACTERS_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenCount = Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS_MAX)]
StopString = Annotated[str, Meta(min_length=1, max_length=limits.STOP_STRING_CHARACTERS_MAX)]
StopStrings = Annotated[list[StopString], Meta(max_length=limits.STOP_STRINGS_MAX)]
TokenId = Annotated[str, Meta(pattern="^[0-9]{1,9}$")]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[dict[TokenId, Bias], Meta(max_length=limits.LOGIT_BIAS_MAX)]
Seed = Annotated[int, Meta(ge=-1, le=limits.SEED_MAX)]

_stop_decoder: msgspec.json.Decoder[str | list[str] | None] = msgspec.json.Decoder(StopString | StopStrings | None)
_bias_decoder: msgspec.json.Decoder[dict[str, float] | None] = msgspec.json.Decoder(Biases | None)


class StreamOptions(Inbound, frozen=True, kw_only=True):
    """How to stream."""

    include_usage: bool | None = None


class GenerationFields(OutputFields, frozen=True, kw_only=True):
    """What both bodies have."""

    model: ModelId | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    """-1 asks for a random one, as in llama-server."""
    stop: Raw = ABSENT
    logit_bias: Raw = ABSENT
    user: Annotated[str, Meta(max_length=limits.USER_CHARACTERS_MAX)] | None = None
    num_ctx: TokenCount | None = None
    n: Annotated[int, Meta(ge=1, le=limits.CHOICES_MAX)] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


PARAMS = {"repeat_penalty": "repetition_penalty", "output": "response_format", "template_arguments": "chat_template_kwargs"}
"""OpenAI's names, or those that are usual beside them, of fields that the neutral request calls otherwise."""


def stop_strings(body: GenerationFields, defaults: GenerationDefaults) -> tuple[str, ...]:
    """The strings that end an answer. Raises `Problem`."""
    stop = decode_field("stop", body.stop, _stop_decoder)
    if stop is None:
        return defaults.stop or ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def sampling(body: GenerationFields, defaults: GenerationDefaults) -> Sampling:
    """The client's choices over the model's defaults over ours. Raises `Problem`."""
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
    biases = decode_field("logit_bias", body.logit_bias, _bias_decoder) or {}
    bias = tuple(sorted((int(token), value) for token, value in biases.items()))
    given = {name: value for name, value in chosen.items() if value is not None}
    return Sampling(logit_bias=bias, **(defaults.sampling() | given))


def implied_by_effort(effort: str | None) -> dict[str, Any]:
    """What a reasoning effort says to the chat template: variables that templates of reasoning models know."""
    if effort is None:
        return {}
    thinks_not = {"enable_thinking": False} if effort == "none" else {}
    return {"reasoning_effort": effort, **thinks_not}


def refuse_larger_context(body: GenerationFields, chosen: ChosenModel) -> None:
    """Raises `Problem` when `num_ctx` is more than the model is known to be loaded with."""
    context_length = chosen.context_length
    if body.num_ctx is not None and context_length is not None and body.num_ctx > context_length:
        reason = (
            f"{chosen.model_id} is loaded with a context of {context_length} tokens, and a request does not reload it; "
            "unload it and load it with max_context_length."
        )
        raise invalid_value("num_ctx", reason)


def as_choices(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """The same request `count` times, each with an id and, where the client chose one, a seed of its own."""
    seed = request.sampling.seed
    choices = [request]
    for index in range(1, count):
        sampled = request.sampling
        if seed is not None:
            sampled = msgspec.structs.replace(sampled, seed=(seed + index) % (limits.SEED_MAX + 1))
        choices.append(msgspec.structs.replace(request, request_id=f"{request.request_id}-{index}", sampling=sampled))
    return choices
