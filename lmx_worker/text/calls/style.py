"""What a way of writing calls is to the reader of answers."""

from collections.abc import Sequence
from typing import Protocol

from lmx_worker.text.pieces import Steps
from lmx_worker.text.source import Source
from lmx_worker.text.tool_book import ToolBook


class CallStyle(Protocol):
    """A family of call formats with its marks filled in. Immutable, shared between requests."""

    @property
    def openers(self) -> Sequence[str]:
        """What calls begin with. None of them is a part of another."""

    @property
    def bare_opener(self) -> str:
        """With what an answer begins that is nothing but calls without any mark; empty where that does not happen."""

    @property
    def marks(self) -> Sequence[str]:
        """Every mark that may be a control token, which must then be shown as text to be read."""

    def read(self, source: Source, opener: str, tools: ToolBook) -> Steps[None]:
        """The calls after this opener, and what closes them.

        Everything up to the last call that was begun is settled; what follows and does not belong to it is not.

        Raises:
            MalformedError: from the place after what is settled on it is no call.
        """
