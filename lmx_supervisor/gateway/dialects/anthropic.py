"""POST /v1/messages and /v1/messages/count_tokens."""

import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from lmx_protocol.messages import Cancelled, Failed, Finished
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import AnswerReader, OpenAnswers
from lmx_supervisor.gateway.answering import AnswerResponse, problem_of
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.anthropic_messages import MessageTranslator
from lmx_supervisor.gateway.dialects.anthropic_request import to_count_request, to_generate_request
from lmx_supervisor.gateway.dialects.anthropic_schema import messages_decoder
from lmx_supervisor.gateway.disconnect import watched
from lmx_supervisor.gateway.edge import note, request_id_of
from lmx_supervisor.gateway.model_choice import ModelChoice
from lmx_supervisor.gateway.origin import origin_of
from lmx_supervisor.gateway.responses import json_response

_PARAMS = {
    "stop": "stop_sequences",
    "output": "output_config.format",
    "template_arguments": "thinking",
    "continues_last_message": "messages",
}
"""What the fields of a neutral request are called here."""


class Messages:
    """The two routes."""

    def __init__(self, service: Service, open_answers: OpenAnswers) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers

    async def create(self, request: Request) -> ASGIApp:
        """Validate, then hand over to the answering loop. Raises `Problem`."""
        body = await read_json(request, messages_decoder, self._service.config.server)
        chosen = await self._models.choose(body.model, caller_of(request.scope))
        generate = to_generate_request(body, f"msg_{secrets.token_hex(12)}", chosen)
        translator = MessageTranslator(
            generate.request_id,
            generate.model_id,
            http_request_id=request_id_of(request.scope),
            hides_thinking=body.thinking is not None and body.thinking.display == "omitted",
        )
        return AnswerResponse(
            self._service,
            [generate],
            translator,
            facts=chosen.facts,
            stream=bool(body.stream),
            open_answers=self._open_answers,
            params=_PARAMS,
            on_prompt=translator.prompt_progress,
        )

    async def count_tokens(self, request: Request) -> Response:
        """How long the prompt of a message would be; nothing is generated. Raises `Problem` and `ClientGoneError`."""
        body = await read_json(request, messages_decoder, self._service.config.server)
        caller = caller_of(request.scope)
        count = to_count_request(body, f"count-{secrets.token_hex(12)}", await self._models.choose(body.model, caller))
        note(request.scope, model=count.model_id, generation_id=count.request_id)
        caller.refuse_other_models(count.model_id)
        until_gone = await watched(request.receive)
        answers = [self._service.submit(count, origin_of(request.scope, stream=False))]
        ids = (request_id_of(request.scope),)
        reader = AnswerReader(answers, self._open_answers, until_gone=until_gone, ids=ids, owner=caller.owner)
        try:
            came = await reader.next_event(wait_seconds=None)
        finally:
            reader.close()
        assert came is not None, "it was to wait for as long as it takes"
        match came[1]:
            case Finished() as counted:
                return json_response({"input_tokens": counted.usage.prompt_tokens})
            case Failed() | Cancelled() as failure:
                raise problem_of(failure, _PARAMS)
            case other:
                raise AssertionError(f"a count was answered with {type(other).__name__}")
