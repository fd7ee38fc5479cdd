"""The request that a freshly loaded model has to answer before it is routed to: one of the kind that it will be asked for."""

from lmx_protocol.messages import (
    AnyRequest,
    AnyRequestEvent,
    EmbedRequest,
    Finished,
    GenerateRequest,
    Message,
    ModelFacts,
    RankRequest,
    Sampling,
)
from lmx_protocol.states import ModelTask

_MAX_TOKENS = 8
_PROMPT = "Reply with exactly: OK"


def canary_for(facts: ModelFacts, request_id: str, model_id: str) -> AnyRequest:
    """A generation if the model generates, else an embedding if it embeds, else a ranking."""
    if ModelTask.GENERATE in facts.tasks:
        return GenerateRequest(
            request_id=request_id,
            model_id=model_id,
            messages=(Message(role="user", content=_PROMPT),),
            max_tokens=_MAX_TOKENS,
            sampling=Sampling(temperature=0.0),
        )
    if ModelTask.EMBED in facts.tasks:
        return EmbedRequest(request_id=request_id, model_id=model_id, inputs=(_PROMPT,))
    return RankRequest(request_id=request_id, model_id=model_id, query=_PROMPT, documents=("OK",))


def canary_passed(facts: ModelFacts, end: AnyRequestEvent) -> bool:
    """Whether it ended well and the model computed something for it."""
    if not isinstance(end, Finished):
        return False
    generates = ModelTask.GENERATE in facts.tasks
    return (end.usage.completion_tokens if generates else end.usage.prompt_tokens) > 0
