"""The whole HTTP interface as one ASGI application: the routes, who may reach them, and the layers around them.

    cross-origin headers → edge (id, log, failures) → framing → foreign sites → preflights → shedding → held bodies → router
        → key check → rate limits → endpoint

Endpoints get the service by their constructor and know nothing of processes. The same application runs under `listener`, under
any other ASGI server, and in tests without a socket.
"""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import Scope

from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.autotune import AdminAutotune
from lmx_supervisor.gateway.admin.benchmark import AdminBenchmark
from lmx_supervisor.gateway.admin.compatibility import AdminCompatibility
from lmx_supervisor.gateway.admin.config import AdminConfig
from lmx_supervisor.gateway.admin.crashes import AdminCrashes
from lmx_supervisor.gateway.admin.diagnostics import AdminDiagnostics
from lmx_supervisor.gateway.admin.downloads import AdminDownloads
from lmx_supervisor.gateway.admin.events import AdminEvents
from lmx_supervisor.gateway.admin.logs import AdminLogs
from lmx_supervisor.gateway.admin.memory import AdminMemory
from lmx_supervisor.gateway.admin.metrics import AdminMetrics
from lmx_supervisor.gateway.admin.models import AdminModels
from lmx_supervisor.gateway.admin.performance import AdminPerformance
from lmx_supervisor.gateway.admin.predictor import AdminPredictor
from lmx_supervisor.gateway.admin.prefix_cache import AdminPrefixCache
from lmx_supervisor.gateway.admin.presets import AdminPresets
from lmx_supervisor.gateway.admin.probe import AdminProbe
from lmx_supervisor.gateway.admin.quantize import AdminQuantize
from lmx_supervisor.gateway.admin.quarantine import AdminQuarantine
from lmx_supervisor.gateway.admin.stack import AdminStack
from lmx_supervisor.gateway.admin.status import AdminStatus
from lmx_supervisor.gateway.admin.worker_logs import AdminWorkerLogs
from lmx_supervisor.gateway.admin.workers import AdminWorkers
from lmx_supervisor.gateway.answer_reader import OpenAnswers
from lmx_supervisor.gateway.auth import Doorkeeper, RequireAdminKey, RequireInferenceKey
from lmx_supervisor.gateway.chat_socket import ChatSocket
from lmx_supervisor.gateway.cross_origin import AnswerPreflights, TellBrowsers
from lmx_supervisor.gateway.dialects.anthropic import Messages
from lmx_supervisor.gateway.dialects.openai_chat import ChatCompletions
from lmx_supervisor.gateway.dialects.openai_completions import Completions
from lmx_supervisor.gateway.dialects.openai_embeddings import Embeddings
from lmx_supervisor.gateway.dialects.openai_responses import Responses
from lmx_supervisor.gateway.dialects.rerank import Rerank
from lmx_supervisor.gateway.discovery import Discovery
from lmx_supervisor.gateway.edge import Edge
from lmx_supervisor.gateway.foreign_sites import RefuseForeignSites
from lmx_supervisor.gateway.framing import DiscardUnreadBody, RefuseBadHeaders
from lmx_supervisor.gateway.held_bodies import BoundHeldBodies
from lmx_supervisor.gateway.models import Models
from lmx_supervisor.gateway.open_requests import OpenRequests
from lmx_supervisor.gateway.openapi.document import openapi
from lmx_supervisor.gateway.probes import Probes
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.rate_limits import LimitRates, RateLimits
from lmx_supervisor.gateway.response_store import ResponseStore
from lmx_supervisor.gateway.shed import ShedLoad


def create_app(service: Service) -> Starlette:
    """The application for one service.

    Its only state: the answers that have not ended, how much of bodies is held, and how often each caller asked of late.
    """
    probes, discovery = Probes(service), Discovery(service)
    doorkeeper, rate_limits = Doorkeeper(service), RateLimits(service)
    app = Starlette(
        routes=[
            Route("/healthz", probes.healthz),
            Route("/readyz", probes.readyz),
            Route("/openapi.json", openapi),
            Route("/.well-known/opta-lmx", discovery.show),
            _OpenRoute("/v1/discovery", discovery.show),
            # Mounted, so that nothing below these prefixes, unknown routes included, is reached without a key.
            Mount(
                "/v1",
                app=_router(_inference_routes(service, doorkeeper, rate_limits)),
                middleware=[
                    Middleware(RequireInferenceKey, doorkeeper=doorkeeper),
                    Middleware(LimitRates, rate_limits=rate_limits),
                ],
            ),
            Mount(
                "/admin",
                app=_router(_admin_routes(service)),
                middleware=[Middleware(RequireAdminKey, doorkeeper=doorkeeper, query_path="/admin/events")],
            ),
        ],
        middleware=[
            Middleware(DiscardUnreadBody),
            Middleware(TellBrowsers, service=service),
            Middleware(Edge, service=service),
            Middleware(RefuseBadHeaders),
            Middleware(RefuseForeignSites, service=service),
            Middleware(AnswerPreflights, service=service),
            Middleware(ShedLoad, service=service),
            Middleware(BoundHeldBodies, service=service),
        ],
        exception_handlers={HTTPException: raise_as_problem},
    )
    app.router.redirect_slashes = False
    return app


async def raise_as_problem(_: Request, error: Exception) -> Response:
    """What the router refuses becomes a problem like every other, for the edge to render."""
    assert isinstance(error, HTTPException)
    raise Problem.of_http(error)


class _OpenRoute(Route):
    """A route that needs no key, below a prefix that does: every method is its own business, so that a wrong one is a 405."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return (Match.NONE if match is Match.NONE else Match.FULL), found


def _router(routes: list[BaseRoute]) -> Router:
    return Router(routes, redirect_slashes=False)


def _inference_routes(service: Service, doorkeeper: Doorkeeper, rate_limits: RateLimits) -> list[BaseRoute]:
    open_answers = OpenAnswers()
    messages = Messages(service, open_answers)
    models = Models(service)
    responses = Responses(service, open_answers, ResponseStore())
    return [
        Route("/chat/completions", ChatCompletions(service, open_answers).create, methods=["POST"]),
        WebSocketRoute("/chat/stream", ChatSocket(service, open_answers, doorkeeper, rate_limits)),
        Route("/completions", Completions(service, open_answers).create, methods=["POST"]),
        Route("/embeddings", Embeddings(service, open_answers).create, methods=["POST"]),
        Route("/rerank", Rerank(service, open_answers).create, methods=["POST"]),
        Route("/responses", responses.create, methods=["POST"]),
        Route("/responses/{response_id}", responses.show, methods=["GET"]),
        Route("/responses/{response_id}", responses.delete, methods=["DELETE"]),
        Route("/responses/{response_id}/input_items", responses.input_items),
        Route("/responses/{response_id}/cancel", responses.cancel, methods=["POST"]),
        Route("/messages", messages.create, methods=["POST"]),
        Route("/messages/count_tokens", messages.count_tokens, methods=["POST"]),
        Route("/requests/{request_id:path}/cancel", OpenRequests(open_answers).cancel, methods=["POST"]),
        Route("/models", models.index),
        # `path`: ids contain slashes, raw or as %2F.
        Route("/models/{model_id:path}", models.show),
    ]


def _admin_routes(service: Service) -> list[BaseRoute]:
    autotune, benchmark = AdminAutotune(service), AdminBenchmark(service)
    models, status, workers = AdminModels(service), AdminStatus(service), AdminWorkers(service)
    crashes, downloads, stack = AdminCrashes(service), AdminDownloads(service), AdminStack(service)
    presets = AdminPresets(service)
    logs, metrics = AdminLogs(service), AdminMetrics(service)
    quantize = AdminQuantize(service)
    prefixes = AdminPrefixCache(service)
    return [
        Route("/models", models.index),
        Route("/models/available", models.available),
        Route("/models/load", models.load, methods=["POST"]),
        Route("/models/load/confirm", downloads.confirm, methods=["POST"]),
        Route("/models/download", downloads.start, methods=["POST"]),
        Route("/models/downloads", downloads.index),
        Route("/models/download/{download_id}/progress", downloads.progress),
        Route("/models/download/{download_id}/cancel", downloads.cancel, methods=["POST"]),
        Route("/models/unload", models.unload, methods=["POST"]),
        Route("/models/probe", AdminProbe(service).probe, methods=["POST"]),
        Route("/models/compatibility", AdminCompatibility(service).index),
        Route("/models/{model_id:path}/restart", models.restart, methods=["POST"]),
        Route("/models/autotune", autotune.tune, methods=["POST"]),
        Route("/models/{model_id:path}/autotune", autotune.show),
        Route("/models/{model_id:path}/performance", AdminPerformance(service).show),
        Route("/benchmark", benchmark.measure, methods=["POST"]),
        Route("/benchmark/run", benchmark.run, methods=["POST"]),
        Route("/benchmark/results", benchmark.results),
        Route("/models/{model_id:path}", downloads.delete, methods=["DELETE"]),
        Route("/quarantine/clear", AdminQuarantine(service).clear, methods=["POST"]),
        Route("/quantize", quantize.index),
        Route("/quantize", quantize.start, methods=["POST"]),
        Route("/quantize/{job_id}", quantize.show),
        Route("/quantize/{job_id}/cancel", quantize.cancel, methods=["POST"]),
        Route("/prefix-cache", prefixes.show),
        Route("/prefix-cache", prefixes.clear, methods=["DELETE"]),
        Route("/prefix-cache/{model_id:path}", prefixes.clear_model, methods=["DELETE"]),
        Route("/status", status.status),
        Route("/presets", presets.index),
        Route("/presets/reload", presets.reload, methods=["POST"]),
        Route("/presets/{name}", presets.show, methods=["GET"]),
        Route("/stack", stack.stack),
        Route("/device", stack.device),
        Route("/predictor", AdminPredictor(service).show),
        Route("/memory", AdminMemory(service).show),
        Route("/health", status.health),
        Route("/events", AdminEvents(service).stream),
        Route("/metrics", metrics.scrape),
        Route("/metrics/json", metrics.summary),
        Route("/diagnostics", AdminDiagnostics(service).show),
        Route("/logs", logs.places),
        Route("/logs/sessions", logs.sessions),
        # `path`: a name that tries to lead elsewhere is refused by its own route.
        Route("/logs/sessions/{filename:path}", logs.session),
        Route("/logs/updates", logs.updates),
        Route("/logs/updates/{filename:path}", logs.update),
        Route("/crashes", crashes.index),
        Route("/crashes/{crash_id}", crashes.show),
        Route("/config/reload", AdminConfig(service).reload, methods=["POST"]),
        Route("/workers", workers.index),
        Route("/workers/{model_id:path}/logs", AdminWorkerLogs(service).stream),
        Route("/workers/{model_id:path}", workers.show),
    ]
