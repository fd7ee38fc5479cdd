"""The operations that tell what the service noted of itself: discovery, measurements, diagnostics, logs."""

from lmx_supervisor.core.records import JournalFile, LogPlaces
from lmx_supervisor.gateway.openapi import record_answers as records
from lmx_supervisor.gateway.openapi.operation import Operation

RECORD_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="get",
        path="/.well-known/opta-lmx",
        summary="What a client has to know before it has a key",
        key=None,
        answers={200: records.DiscoveryOut},
    ),
    Operation(
        method="get",
        path="/v1/discovery",
        summary="The same, for clients that look here",
        key=None,
        answers={200: records.DiscoveryOut},
    ),
    Operation(
        method="get",
        path="/admin/metrics/json",
        summary="What is measured of requests, as one document",
        key="admin",
        answers={200: records.MetricsOut},
    ),
    Operation(
        method="get",
        path="/admin/diagnostics",
        summary="The service for a report of trouble, with one word for how it is",
        key="admin",
        answers={200: records.DiagnosticsOut},
    ),
    Operation(method="get", path="/admin/logs", summary="Where everything is written", key="admin", answers={200: LogPlaces}),
    Operation(
        method="get",
        path="/admin/logs/sessions",
        summary="The logs of the service's runs, and the events beside them",
        key="admin",
        answers={200: list[JournalFile]},
    ),
    Operation(
        method="get",
        path="/admin/logs/sessions/{filename}",
        summary="One of them",
        key="admin",
        text="text/plain",
    ),
    Operation(
        method="get",
        path="/admin/logs/updates",
        summary="The logs of what changed",
        key="admin",
        answers={200: list[JournalFile]},
    ),
    Operation(method="get", path="/admin/logs/updates/{filename}", summary="One of them", key="admin", text="text/plain"),
    Operation(
        method="get",
        path="/admin/workers/{model_id}/logs",
        summary="What a model's workers print",
        key="admin",
        query=records.OutputQuery,
        text="text/event-stream",
    ),
)
