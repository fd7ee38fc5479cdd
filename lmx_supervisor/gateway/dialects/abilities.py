"""What a loaded model cannot do, refused before anything is queued for it. Pure.

Only an early word: a model whose facts are not known yet refuses for itself, with the neutral name of the field.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, ModelFacts, Sampling
from lmx_protocol.states import ModelTask
from lmx_supervisor.gateway.problem import Problem

_NOTHING_ASKED: dict[str, Any] = {
    field.name: field.default
    for struct in (GenerateRequest, Sampling)
    for field in msgspec.structs.fields(struct)
    if not field.required
}
"""Every field that could be refused, and its value when the client asked for nothing."""


def refuse_what_the_model_cannot(request: GenerateRequest, facts: ModelFacts, params: Mapping[str, str]) -> None:
    """Raises `Problem` (400 `not_supported`) whose `param` is the dialect's name of the field (`params`: where it differs)."""
    if ModelTask.GENERATE not in facts.tasks:
        does = " and ".join(sorted(facts.tasks))
        message = f"Model '{request.model_id}' generates no text: it can {does}. `GET /v1/models` lists the others."
        raise Problem(ErrorCode.NOT_SUPPORTED, message, param="model")
    for field in facts.unsupported_fields:
        holder = request if hasattr(request, field) else request.sampling
        if getattr(holder, field) != _NOTHING_ASKED[field]:
            param = params.get(field, field)
            message = f"{param}: model '{request.model_id}' ({facts.backend}) cannot do this; leave it out."
            raise Problem(ErrorCode.NOT_SUPPORTED, message, param=param)
