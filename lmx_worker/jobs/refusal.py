"""The one exception for work that cannot be done."""

from lmx_protocol.errors import ErrorCode


class JobRefusal(Exception):  # noqa: N818 - an answer, with its reason
    """The work cannot be done and trying again at once would not help; the supervisor tells whoever asked."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
