"""The one exception for a wish that cannot be granted; the gateway turns it into the dialect's error envelope."""

from lmx_protocol.errors import ErrorCode


class Refusal(Exception):  # noqa: N818 - not an error: a decision, with its reason
    """Something was asked that cannot be done: a code to branch on and a message that says what to do next."""

    def __init__(
        self, code: ErrorCode, message: str, *, param: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
