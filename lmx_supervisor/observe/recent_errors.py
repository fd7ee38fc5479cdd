"""What went wrong lately, for GET /admin/diagnostics: what operators were warned of, and requests that failed."""

from collections import deque

from lmx_protocol import limits
from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.core.measured import RecentError
from lmx_supervisor.observe.event_names import REQUEST_COMPLETED
from lmx_supervisor.observe.request_metrics import CLIENTS_MISTAKES

_TEXT_FIELDS = ("text", "error", "detail", "problem")
_CODE_FIELDS = ("code", "error_code", "reason")


class RecentErrors:
    """The newest `RECENT_ERRORS_MAX` of them. Listens to the event bus, so secrets are struck out already."""

    def __init__(self) -> None:
        self._errors: deque[RecentError] = deque(maxlen=limits.RECENT_ERRORS_MAX)

    def take(self, event: LoggedEvent) -> None:
        """Keep an event that tells of something wrong."""
        failed = event.kind == REQUEST_COMPLETED and event.fields.get("outcome") == "failed"
        if event.alarming or (failed and event.fields.get("code") not in CLIENTS_MISTAKES):
            self._errors.append(_error(event))

    def newest_first(self) -> list[RecentError]:
        """All that are kept."""
        return list(reversed(self._errors))


def _error(event: LoggedEvent) -> RecentError:
    model_id = event.fields.get("model_id")
    code = _first(event, _CODE_FIELDS)
    text = _first(event, _TEXT_FIELDS) or event.kind.replace("_", " ")
    return RecentError(
        at_unix_seconds=event.at_unix_seconds,
        kind=event.kind,
        model_id=None if model_id is None else str(model_id),
        code=code,
        text=text[: limits.RECENT_ERROR_CHARACTERS_MAX],
    )


def _first(event: LoggedEvent, names: tuple[str, ...]) -> str | None:
    return next((str(value) for name in names if (value := event.fields.get(name)) is not None), None)
