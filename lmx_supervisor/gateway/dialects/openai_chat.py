"""POST /v1/chat/completions: from the body to the answering loop."""

import secrets
import time

from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.answering import AnswerResponse
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.openai_chat_request import to_generate_requests
from lmx_supervisor.gateway.dialects.openai_chat_schema import chat_decoder
from lmx_supervisor.gateway.dialects.openai_chat_translator import ChatTranslator
from lmx_supervisor.gateway.dialects.openai_fields import PARAMS
from lmx_supervisor.gateway.dialects.openai_output import output_params
from lmx_supervisor.gateway.model_choice import ModelChoice


class ChatCompletions:
    """The endpoint."""

    def __init__(self, service: Service, open_answers: OpenAnswers) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers

    async def create(self, request: Request) -> ASGIApp:
        """Validate, then hand over to the answering loop. Raises `Problem`."""
        body = await read_json(request, chat_decoder, self._service.config.server)
        chosen = await self._models.choose(body.model, caller_of(request.scope))
        request_id = f"chatcmpl-{secrets.token_hex(12)}"
        requests = to_generate_requests(body, request_id, chosen)
        translator = ChatTranslator(
            request_id,
            chosen.model_id,
            created_unix_seconds=int(time.time()),
            include_usage=body.include_usage,
            choices=len(requests),
            logprobs=bool(body.logprobs),
        )
        return AnswerResponse(
            self._service,
            requests,
            translator,
            facts=chosen.facts,
            stream=bool(body.stream),
            open_answers=self._open_answers,
            params={**PARAMS, **output_params(body)},
        )
