"""GET /admin/models/compatibility: which model worked on which backend, filtered and summed up."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.service import CompatibilityRow, Service
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted; None lets everything through."""

    model_id: str | None = None
    backend: str | None = None
    outcome: Literal["pass", "fail"] | None = None
    since_ts: float | None = None
    limit: int = limits.COMPATIBILITY_ROWS_SHOWN
    """Rows shown, at least 1 and at most `COMPATIBILITY_ROWS_MAX`; values beyond are clamped."""
    include_summary: bool = False


class AdminCompatibility:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, request: Request) -> Response:
        """The rows, newest first. `total` and `summary` are over all that match, not only those shown. Raises `Problem`."""
        query = parse_query(request.query_params)
        matching = [row for row in self._service.compatibility() if _matches(row, query)]
        shown = min(max(query.limit, 1), limits.COMPATIBILITY_ROWS_MAX)
        return json_response(
            {
                "total": len(matching),
                "rows": matching[: -shown - 1 : -1],
                "summary": summary_of(matching) if query.include_summary else None,
            }
        )


def parse_query(parameters: Mapping[str, str]) -> Query:
    """The query that a URL means; unknown parameters and empty values are ignored. Raises `Problem` (400) for a wrong one."""
    given = {name: value for name, value in parameters.items() if name in Query.__struct_fields__ and value}
    query = Query()
    for name, value in given.items():
        try:
            one = msgspec.convert({name: value}, Query, strict=False)
        except msgspec.ValidationError as error:
            # The error ends in the place, which is the parameter itself.
            expected = str(error).partition(" - at ")[0]
            raise Problem(ErrorCode.INVALID_VALUE, f"{name}: {expected}.", param=name) from error
        query = msgspec.structs.replace(query, **{name: getattr(one, name)})
    return query


def summary_of(rows: Iterable[CompatibilityRow]) -> dict[str, dict[str, Any]]:
    """Per model: how many rows, passes and fails, and when the newest was. `rows` are in order of time."""
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        model = summary.setdefault(row.model_id, {"total": 0, "pass": 0, "fail": 0})
        model["total"] += 1
        model[row.outcome] += 1
        model["latest_ts"] = row.ts
    return summary


def _matches(row: CompatibilityRow, query: Query) -> bool:
    return (
        query.model_id in (None, row.model_id)
        and query.backend in (None, row.backend)
        and query.outcome in (None, row.outcome)
        and (query.since_ts is None or row.ts >= query.since_ts)
    )
