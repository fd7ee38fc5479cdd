"""Where a request comes from, and what its client wants beside the answer: the headers that every inference route reads.

`X-Client-ID` names the client, `X-Serving-Lane` and `X-Priority` order it among those who wait, `Request-Timeout-Ms` says how
long it waits for its whole answer. A named key's name counts instead of a client's own. What these say never opens anything:
keys are `auth`'s.
"""

import re

from starlette.types import Scope

from lmx_protocol import limits
from lmx_supervisor.core.claims import Lane
from lmx_supervisor.core.service import Origin
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.problem import EdgeCode, Problem

_CLIENT_ID_HEADERS = (b"x-client-id", b"x-openclaw-agent-id")
"""What a client calls itself; the first one that is there counts, for callers whose key has no name."""

_LANES = {"interactive": Lane.INTERACTIVE, "throughput": Lane.THROUGHPUT}
_PRIORITIES = {
    "interactive": Lane.INTERACTIVE,
    "high": Lane.INTERACTIVE,
    "normal": Lane.NORMAL,
    "batch": Lane.THROUGHPUT,
    "low": Lane.THROUGHPUT,
}
_MILLISECONDS = re.compile(r"[0-9]{1,9}")


def origin_of(scope: Scope, *, stream: bool) -> Origin:
    """Where a request comes from. Raises `Problem` for a header that cannot be understood."""
    headers = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
    names = (headers[name] for name in _CLIENT_ID_HEADERS if name in headers)
    caller = caller_of(scope)
    client_id = caller.client_id(next(names, None))
    return Origin(
        client_id=client_id[: limits.CLIENT_NAME_CHARACTERS_MAX] if client_id is not None else None,
        stream=stream,
        address=scope["state"]["client_address"] or "",
        key_name=caller.name,
        key_concurrent_max=caller.concurrent_max,
        lane=_lane_of(headers),
        time_limit_seconds=_time_limit_seconds(headers.get(b"request-timeout-ms")),
    )


def _lane_of(headers: dict[bytes, str]) -> Lane:
    """The lane that is named; `X-Priority` counts where `X-Serving-Lane` is not there."""
    for name, lanes in ((b"x-serving-lane", _LANES), (b"x-priority", _PRIORITIES)):
        value = headers.get(name)
        if value is not None:
            lane = lanes.get(value.lower())
            if lane is None:
                raise _invalid(name.decode(), f"'{value[:64]}' is none of {', '.join(lanes)}")
            return lane
    return Lane.NORMAL


def _time_limit_seconds(value: str | None) -> float | None:
    if value is None:
        return None
    milliseconds = int(value) if _MILLISECONDS.fullmatch(value) else 0
    if not 1 <= milliseconds <= limits.TIME_LIMIT_MILLISECONDS_MAX:
        most = limits.TIME_LIMIT_MILLISECONDS_MAX
        raise _invalid("request-timeout-ms", f"must be a whole number of milliseconds from 1 to {most}")
    return milliseconds / 1000


def _invalid(name: str, what: str) -> Problem:
    return Problem(EdgeCode.INVALID_HEADER, f"{name}: {what}.", param=name)
