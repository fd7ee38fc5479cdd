"""The Responses routes: make one, get it, its input, cancel it, delete it. See `response_store` for what is remembered."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.answering import AnswerResponse
from lmx_supervisor.gateway.body import decode_field, read_json
from lmx_supervisor.gateway.callers import Caller, Owner, caller_of
from lmx_supervisor.gateway.dialects.openai_responses_items import answer_turn, to_messages
from lmx_supervisor.gateway.dialects.openai_responses_request import PARAMS, echoed, input_items, to_generate_request
from lmx_supervisor.gateway.dialects.openai_responses_schema import ItemIn, ResponsesBody, metadata_decoder, responses_decoder
from lmx_supervisor.gateway.dialects.openai_responses_translator import (
    CANCELLED,
    COMPLETED,
    FAILED,
    INCOMPLETE,
    ResponsesTranslator,
)
from lmx_supervisor.gateway.model_choice import ModelChoice
from lmx_supervisor.gateway.problem import EdgeCode, Problem
from lmx_supervisor.gateway.response_store import ResponseStore, StoredResponse
from lmx_supervisor.gateway.responses import json_response, to_json

_KEPT = (COMPLETED, INCOMPLETE, FAILED, CANCELLED)


class Responses:
    """The routes."""

    def __init__(self, service: Service, open_answers: OpenAnswers, store: ResponseStore) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers
        self._store = store

    async def create(self, request: Request) -> ASGIApp:
        """POST: validate, then hand over to the answering loop. Raises `Problem`."""
        body = await read_json(request, responses_decoder, self._service.config.server)
        caller = caller_of(request.scope)
        chosen = await self._models.choose(body.model, caller)
        items = input_items(body)
        earlier = self._earlier(body, caller)
        metadata = decode_field("metadata", body.metadata, metadata_decoder) or {}
        generate = to_generate_request(body, f"resp_{secrets.token_hex(12)}", chosen, items, earlier)
        translator = ResponsesTranslator(
            generate.request_id,
            echoed(body, generate, metadata),
            created_unix_seconds=int(time.time()),
            logprobs=generate.logprobs is not None,
        )
        answer = AnswerResponse(
            self._service,
            [generate],
            translator,
            facts=chosen.facts,
            stream=bool(body.stream),
            open_answers=self._open_answers,
            params=PARAMS,
        )
        turns = (*earlier, *to_messages(items))
        keep = body.store is not False
        return _RememberedAnswer(answer, translator, self._store, generate, items, turns, owner=caller.owner, keep=keep)

    async def show(self, request: Request) -> Response:
        """GET: the response as it is. Raises `Problem` (404)."""
        response_id, caller = request.path_params["response_id"], caller_of(request.scope)
        in_progress = self._store.in_progress(response_id, caller)
        if in_progress is not None:
            return json_response(in_progress.response())
        return Response(self._stored(response_id, caller).body, media_type="application/json")

    async def input_items(self, request: Request) -> Response:
        """GET input_items: what was asked. Raises `Problem` (404)."""
        items = self._stored(request.path_params["response_id"], caller_of(request.scope)).items
        return Response(
            b'{"object":"list","data":' + items + b',"first_id":null,"last_id":null,"has_more":false}',
            media_type="application/json",
        )

    async def cancel(self, request: Request) -> Response:
        """POST cancel: end a response that is being made. Raises `Problem` (404; 400 when it has ended)."""
        response_id, caller = request.path_params["response_id"], caller_of(request.scope)
        in_progress = self._store.in_progress(response_id, caller)
        if in_progress is None:
            self._stored(response_id, caller)
            raise Problem(ErrorCode.INVALID_VALUE, f"Response '{response_id}' has ended already.", param="response_id")
        in_progress.cancel()
        self._open_answers.cancel(response_id, caller)
        return json_response(in_progress.response())

    async def delete(self, request: Request) -> Response:
        """DELETE: forget a response. Raises `Problem` (404)."""
        response_id = request.path_params["response_id"]
        if not self._store.delete(response_id, caller_of(request.scope)):
            raise _unknown(response_id, "response_id")
        return json_response({"id": response_id, "object": "response", "deleted": True})

    def _earlier(self, body: ResponsesBody, caller: Caller) -> tuple[Message, ...]:
        if body.previous_response_id is None:
            return ()
        stored = self._store.get(body.previous_response_id, caller)
        if stored is None:
            raise _unknown(body.previous_response_id, "previous_response_id")
        return stored.turns

    def _stored(self, response_id: str, caller: Caller) -> StoredResponse:
        stored = self._store.get(response_id, caller)
        if stored is None:
            raise _unknown(response_id, "response_id")
        return stored


def _unknown(response_id: str, param: str) -> Problem:
    message = (
        f"There is no response '{response_id[:64]}' here: it was deleted, not stored, or forgotten to make room. "
        "Send the whole conversation as `input`."
    )
    return Problem(EdgeCode.RESPONSE_NOT_FOUND, message, param=param)


class _RememberedAnswer:
    """The answering loop, with the response known while it is made and kept when it has ended."""

    def __init__(
        self,
        answer: ASGIApp,
        translator: ResponsesTranslator,
        store: ResponseStore,
        generate: GenerateRequest,
        items: Sequence[ItemIn],
        turns: tuple[Message, ...],
        *,
        owner: Owner,
        keep: bool,
    ) -> None:
        self._answer = answer
        self._translator = translator
        self._store = store
        self._response_id = generate.request_id
        self._items = items
        self._turns = turns
        self._owner = owner
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._store.begin(self._response_id, self._owner, self._translator)
        try:
            await self._answer(scope, receive, send)
        finally:
            self._store.end(self._response_id)
            if self._keep and self._translator.status in _KEPT:
                self._store.keep(self._ended())

    def _ended(self) -> StoredResponse:
        return StoredResponse(
            response_id=self._response_id,
            owner=self._owner,
            body=to_json(self._translator.response()),
            items=to_json([_shown(item, f"item_{index:02x}") for index, item in enumerate(self._items)]),
            turns=(*self._turns, answer_turn(self._translator.answer)),
        )


def _shown(item: ItemIn, item_id: str) -> dict[str, Any]:
    """An input item with an id of its own and content in parts, as the list of them shows it."""
    shown = {name: value for name in item.__struct_fields__ if (value := getattr(item, name)) is not None}
    if isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        shown["content"] = [{"type": kind, "text": item.content, **({"annotations": []} if kind == "output_text" else {})}]
    return {"id": item_id, **shown, "status": "completed"}
