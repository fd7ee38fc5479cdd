"""A query and a document as the one input of a cross-encoder, the way the model was trained."""

import re
from collections.abc import Sequence
from typing import Protocol

_PLACE = re.compile(r"\{(query|document)\}")


class Vocabulary(Protocol):
    """What of a model's weights is needed here."""

    @property
    def rerank_template(self) -> str | None:
        """A text with places for `{query}` and `{document}`, if the file has one."""

    @property
    def pair_marks(self) -> tuple[list[int], list[int], list[int]]:
        """The tokens before, between and after the two."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> Sequence[int]:
        """The tokens of a text."""


class PairEncoder:
    """Makes pairs for one model."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._template = vocabulary.rerank_template
        self._before, self._between, self._after = vocabulary.pair_marks

    def tokens(self, query: str, document: str) -> Sequence[int]:
        """The model's own template filled in, else both texts with the vocabulary's marks around them."""
        if self._template is not None:
            given = {"query": query, "document": document}
            # At once: what stands in the query is not looked at for places again.
            text = _PLACE.sub(lambda place: given[place[1]], self._template)
            return self._vocabulary.tokenize(text, add_special=False)
        query_tokens, document_tokens = (
            self._vocabulary.tokenize(text, add_special=False, parse_special=False) for text in (query, document)
        )
        return [*self._before, *query_tokens, *self._between, *document_tokens, *self._after]
