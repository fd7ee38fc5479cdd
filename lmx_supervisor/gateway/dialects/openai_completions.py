"""POST /v1/completions: from the body to the answering loop."""

import secrets
import time

from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.answering import AnswerResponse
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.openai_completions_request import to_plan
from lmx_supervisor.gateway.dialects.openai_completions_schema import completion_decoder
from lmx_supervisor.gateway.dialects.openai_completions_translator import CompletionTranslator
from lmx_supervisor.gateway.dialects.openai_fields import PARAMS
from lmx_supervisor.gateway.dialects.openai_output import output_params
from lmx_supervisor.gateway.model_choice import ModelChoice


class Completions:
    """The endpoint."""

    def __init__(self, service: Service, open_answers: OpenAnswers) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers

    async def create(self, request: Request) -> ASGIApp:
        """Validate, then hand over to the answering loop. Raises `Problem`."""
        body = await read_json(request, completion_decoder, self._service.config.server)
        chosen = await self._models.choose(body.model, caller_of(request.scope))
        request_id = f"cmpl-{secrets.token_hex(12)}"
        plan = to_plan(body, request_id, chosen)
        translator = CompletionTranslator(
            request_id,
            chosen.model_id,
            created_unix_seconds=int(time.time()),
            include_usage=body.include_usage,
            echoes=plan.echoes,
            candidates=plan.candidates,
            shown=plan.shown,
            logprobs=body.logprobs is not None,
        )
        is_for_ranking = body.logprobs is None and plan.candidates > plan.shown
        ranking_params = {"logprobs": "best_of"} if is_for_ranking else {}
        return AnswerResponse(
            self._service,
            plan.requests,
            translator,
            facts=chosen.facts,
            stream=bool(body.stream),
            open_answers=self._open_answers,
            params={**PARAMS, **output_params(body), **ranking_params, "prompt_tokens": "prompt"},
        )
