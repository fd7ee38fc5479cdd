"""Every operation of the interface: what it takes, what it answers, and an example. A test holds it to the routes."""

from typing import Any

from lmx_supervisor.core.autotune import TunedRecord
from lmx_supervisor.core.benchmark import BenchmarkResult
from lmx_supervisor.core.crashes import CrashReport
from lmx_supervisor.core.downloads.orders import DownloadView
from lmx_supervisor.core.probes import ProbeReport
from lmx_supervisor.core.quantization.orders import QuantizeJob
from lmx_supervisor.core.service import PrefixCacheUse
from lmx_supervisor.core.views import FleetView, WorkerView
from lmx_supervisor.gateway.admin.autotune import AutotuneBody, AutotuneQuery
from lmx_supervisor.gateway.admin.benchmark import BenchmarkBody, BenchmarkQuery, BenchmarkRunBody
from lmx_supervisor.gateway.admin.compatibility import Query as CompatibilityQuery
from lmx_supervisor.gateway.admin.downloads import ConfirmBody, DownloadBody, DownloadsQuery
from lmx_supervisor.gateway.admin.model_bodies import ClearBody, LoadBody, UnloadBody
from lmx_supervisor.gateway.admin.probe import ProbeBody
from lmx_supervisor.gateway.admin.quantize import QuantizeBody
from lmx_supervisor.gateway.dialects.anthropic_schema import MessagesBody
from lmx_supervisor.gateway.dialects.openai_chat_schema import ChatBody
from lmx_supervisor.gateway.dialects.openai_completions_schema import CompletionBody
from lmx_supervisor.gateway.dialects.openai_embeddings_request import EmbeddingBody
from lmx_supervisor.gateway.dialects.openai_responses_schema import ResponsesBody
from lmx_supervisor.gateway.dialects.rerank import RerankBody
from lmx_supervisor.gateway.openapi import admin_answers as admin
from lmx_supervisor.gateway.openapi import inference_answers as inference
from lmx_supervisor.gateway.openapi import stack_answers as stack
from lmx_supervisor.gateway.openapi.operation import Operation
from lmx_supervisor.gateway.openapi.record_operations import RECORD_OPERATIONS

_HELLO: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}

OPERATIONS: tuple[Operation, ...] = (
    Operation(method="get", path="/healthz", summary="The process is alive", key=None, answers={200: admin.Alive}),
    Operation(
        method="get",
        path="/readyz",
        summary="Something can be served; 503 says why not",
        key=None,
        answers={200: admin.Ready, 503: admin.Unready},
    ),
    Operation(
        method="get",
        path="/openapi.json",
        summary="This document",
        key=None,
        answers={200: dict[str, Any]},
    ),
    # --- inference --------------------------------------------------------------------------------------------------------
    Operation(
        method="post",
        path="/v1/chat/completions",
        summary="Answer a conversation",
        key="inference",
        body=ChatBody,
        answers={200: inference.ChatCompletion},
        streams=True,
        example=_HELLO,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        summary="Go on from a text",
        key="inference",
        body=CompletionBody,
        answers={200: inference.TextCompletion},
        streams=True,
        example={"model": "smollm2-135m-instruct", "prompt": "The capital of France is", "max_tokens": 8},
    ),
    Operation(
        method="post",
        path="/v1/embeddings",
        summary="A vector for each text",
        key="inference",
        body=EmbeddingBody,
        answers={200: inference.EmbeddingListOut},
        example={"model": "smollm2-135m-instruct", "input": "Paris is in France."},
    ),
    Operation(
        method="post",
        path="/v1/rerank",
        summary="Sort documents by how well they answer a query",
        key="inference",
        body=RerankBody,
        answers={200: inference.RankingOut},
        example={"model": "smollm2-135m-instruct", "query": "Where is Paris?", "documents": ["In France.", "Bananas."]},
    ),
    Operation(
        method="post",
        path="/v1/messages",
        summary="Answer a conversation, in Anthropic's dialect",
        key="inference",
        body=MessagesBody,
        answers={200: inference.MessageOut},
        error=inference.MessagesErrorAnswer,
        streams=True,
        example={**_HELLO, "max_tokens": 32},
    ),
    Operation(
        method="post",
        path="/v1/messages/count_tokens",
        summary="How many tokens a conversation has",
        key="inference",
        body=MessagesBody,
        answers={200: inference.CountedTokens},
        error=inference.MessagesErrorAnswer,
        example=_HELLO,
    ),
    Operation(
        method="post",
        path="/v1/responses",
        summary="Make a response",
        key="inference",
        body=ResponsesBody,
        answers={200: inference.ResponseOut},
        streams=True,
        example={"model": "smollm2-135m-instruct", "input": "What is the capital of France?"},
    ),
    Operation(
        method="get",
        path="/v1/responses/{response_id}",
        summary="A response that was made, or is being made",
        key="inference",
        answers={200: inference.ResponseOut},
    ),
    Operation(
        method="delete",
        path="/v1/responses/{response_id}",
        summary="Forget a response",
        key="inference",
        answers={200: inference.DeletedResponse},
    ),
    Operation(
        method="get",
        path="/v1/responses/{response_id}/input_items",
        summary="What a response was asked",
        key="inference",
        answers={200: inference.ItemList},
    ),
    Operation(
        method="post",
        path="/v1/responses/{response_id}/cancel",
        summary="End a response that is being made",
        key="inference",
        answers={200: inference.ResponseOut},
    ),
    Operation(
        method="post",
        path="/v1/requests/{request_id}/cancel",
        summary="End a request, wherever it is",
        key="inference",
        answers={200: inference.CancelledRequest},
    ),
    Operation(method="get", path="/v1/models", summary="What is served", key="inference", answers={200: inference.ModelList}),
    Operation(
        method="get",
        path="/v1/models/{model_id}",
        summary="One model that is served",
        key="inference",
        answers={200: inference.ModelOut},
    ),
    # --- administration ---------------------------------------------------------------------------------------------------
    Operation(method="get", path="/admin/models", summary="What is served", key="admin", answers={200: admin.LoadedModels}),
    Operation(
        method="get",
        path="/admin/models/available",
        summary="The models on disk",
        key="admin",
        answers={200: list[admin.AvailableModel]},
    ),
    Operation(
        method="post",
        path="/admin/models/load",
        summary="Have a model served; answers when its first generation succeeded",
        key="admin",
        body=LoadBody,
        answers={200: admin.ModelLoaded, 202: admin.ModelOnItsWay},
        example={"model_id": "smollm2-135m-instruct"},
    ),
    Operation(
        method="post",
        path="/admin/models/load/confirm",
        summary="Start the download that a load offered, and load the model when it has arrived",
        key="admin",
        body=ConfirmBody,
        answers={202: admin.ModelOnItsWay},
        example={"confirmation_token": "dl-2Zq0b3m5n8p1"},
    ),
    Operation(
        method="post",
        path="/admin/models/download",
        summary="Fetch a model from the hub; the same order again joins it",
        key="admin",
        body=DownloadBody,
        answers={200: admin.DownloadStarted},
        example={"repo_id": "mlx-community/Qwen2.5-0.5B-Instruct-4bit"},
    ),
    Operation(
        method="get",
        path="/admin/models/downloads",
        summary="The downloads under way, or all that are remembered",
        key="admin",
        query=DownloadsQuery,
        answers={200: admin.DownloadList},
    ),
    Operation(
        method="get",
        path="/admin/models/download/{download_id}/progress",
        summary="How far a download is",
        key="admin",
        answers={200: DownloadView},
    ),
    Operation(
        method="post",
        path="/admin/models/download/{download_id}/cancel",
        summary="End a download and throw away what has come of it",
        key="admin",
        answers={200: admin.DownloadCancelled},
    ),
    Operation(
        method="delete",
        path="/admin/models/{model_id}",
        summary="Delete a model that is not in use",
        key="admin",
        answers={200: admin.ModelDeleted},
    ),
    Operation(
        method="post",
        path="/admin/models/unload",
        summary="Stop serving a model",
        key="admin",
        body=UnloadBody,
        answers={200: admin.ModelUnloaded},
        example={"model_id": "smollm2-135m-instruct"},
    ),
    Operation(
        method="post",
        path="/admin/models/probe",
        summary="Which backends can open a model, without loading it",
        key="admin",
        body=ProbeBody,
        answers={200: ProbeReport},
        example={"model_id": "smollm2-135m-instruct", "timeout_sec": 60},
    ),
    Operation(
        method="post",
        path="/admin/quantize",
        summary="Have a quantized copy of an MLX model made",
        key="admin",
        body=QuantizeBody,
        answers={200: QuantizeJob},
        example={"source_model": "mlx-community/Qwen2.5-0.5B-Instruct-bf16", "bits": 4, "group_size": 64},
    ),
    Operation(
        method="get",
        path="/admin/quantize",
        summary="Every quantize job that is remembered, the newest first",
        key="admin",
        answers={200: admin.QuantizeJobs},
    ),
    Operation(method="get", path="/admin/quantize/{job_id}", summary="One of them", key="admin", answers={200: QuantizeJob}),
    Operation(
        method="post",
        path="/admin/quantize/{job_id}/cancel",
        summary="End a quantize job; 202 while its process is being ended",
        key="admin",
        answers={200: admin.QuantizeCancelled, 202: admin.QuantizeCancelled},
    ),
    Operation(
        method="get",
        path="/admin/models/compatibility",
        summary="What was learned about models and backends",
        key="admin",
        query=CompatibilityQuery,
        answers={200: admin.Compatibility},
    ),
    Operation(
        method="post",
        path="/admin/models/autotune",
        summary="Try settings on a model, and keep the best for its loads",
        key="admin",
        body=AutotuneBody,
        answers={200: admin.AutotuneOut},
        example={"model_id": "smollm2-135m-instruct", "concurrency": 4, "profiles": [{"slots": 1}, {"slots": 4}]},
    ),
    Operation(
        method="get",
        path="/admin/models/{model_id}/autotune",
        summary="The settings that an autotune found",
        key="admin",
        query=AutotuneQuery,
        answers={200: TunedRecord},
    ),
    Operation(
        method="post",
        path="/admin/benchmark",
        summary="Measure a served model",
        key="admin",
        body=BenchmarkBody,
        answers={200: admin.BenchmarkOut},
        example={"model_id": "smollm2-135m-instruct", "max_tokens": 32, "runs": 2},
    ),
    Operation(
        method="post",
        path="/admin/benchmark/run",
        summary="Measure a served model, and keep the result",
        key="admin",
        body=BenchmarkRunBody,
        answers={200: BenchmarkResult},
        example={"model_id": "smollm2-135m-instruct", "num_output_tokens": 50, "runs": 2},
    ),
    Operation(
        method="get",
        path="/admin/benchmark/results",
        summary="The results that were kept, the newest first",
        key="admin",
        query=BenchmarkQuery,
        answers={200: list[BenchmarkResult]},
    ),
    Operation(
        method="get",
        path="/admin/models/{model_id}/performance",
        summary="What a model was tuned by",
        key="admin",
        answers={200: admin.ModelPerformance},
    ),
    Operation(
        method="post",
        path="/admin/models/{model_id}/restart",
        summary="Replace a model's worker by a fresh one",
        key="admin",
        answers={200: admin.ModelLoaded},
    ),
    Operation(
        method="post",
        path="/admin/quarantine/clear",
        summary="Trust a model again, or all of them",
        key="admin",
        body=ClearBody,
        answers={200: admin.Released},
        example={"model_id": None},
    ),
    Operation(
        method="get",
        path="/admin/prefix-cache",
        summary="Computed prompts on the disk",
        key="admin",
        answers={200: PrefixCacheUse},
    ),
    Operation(
        method="delete",
        path="/admin/prefix-cache",
        summary="Delete the computed prompts of all models",
        key="admin",
        answers={200: admin.PrefixesCleared},
    ),
    Operation(
        method="delete",
        path="/admin/prefix-cache/{model_id}",
        summary="Delete the computed prompts of one model",
        key="admin",
        answers={200: admin.PrefixesCleared},
    ),
    Operation(
        method="get", path="/admin/status", summary="The service in numbers", key="admin", answers={200: admin.StatusOut}
    ),
    Operation(method="get", path="/admin/stack", summary="What aliases lead to", key="admin", answers={200: stack.StackOut}),
    Operation(
        method="get",
        path="/admin/predictor",
        summary="Which model is likely to be wanted next",
        key="admin",
        answers={200: stack.PredictorOut},
    ),
    Operation(method="get", path="/admin/presets", summary="The presets", key="admin", answers={200: stack.PresetsOut}),
    Operation(method="get", path="/admin/presets/{name}", summary="One preset", key="admin", answers={200: stack.PresetOut}),
    Operation(
        method="post",
        path="/admin/presets/reload",
        summary="Read the presets' files again",
        key="admin",
        answers={200: stack.PresetsReloaded},
    ),
    Operation(method="get", path="/admin/device", summary="This machine", key="admin", answers={200: stack.DeviceOut}),
    Operation(
        method="get", path="/admin/memory", summary="Memory, and who holds it", key="admin", answers={200: admin.HostMemoryOut}
    ),
    Operation(
        method="get", path="/admin/health", summary="The service in one word", key="admin", answers={200: admin.HealthOut}
    ),
    Operation(method="get", path="/admin/events", summary="What happens, as it happens", key="admin", text="text/event-stream"),
    Operation(method="get", path="/admin/metrics", summary="Everything measured", key="admin", text="text/plain"),
    Operation(
        method="get", path="/admin/crashes", summary="The newest deaths of workers", key="admin", answers={200: admin.Crashes}
    ),
    Operation(
        method="get",
        path="/admin/crashes/{crash_id}",
        summary="Everything that is kept of one death",
        key="admin",
        answers={200: CrashReport},
    ),
    Operation(
        method="post",
        path="/admin/config/reload",
        summary="Put a changed configuration in force",
        key="admin",
        answers={200: admin.Reloaded},
    ),
    Operation(method="get", path="/admin/workers", summary="The fleet", key="admin", answers={200: FleetView}),
    Operation(
        method="get", path="/admin/workers/{model_id}", summary="One model's worker", key="admin", answers={200: WorkerView}
    ),
    *RECORD_OPERATIONS,
)
