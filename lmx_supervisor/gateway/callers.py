"""Who sends a request, as far as its key or token tells, and what that allows below `/v1`."""

from fnmatch import fnmatchcase
from typing import Literal

import msgspec
from starlette.types import Scope

from lmx_supervisor.gateway.problem import EdgeCode, Problem

Owner = tuple[str, str] | None
"""Whose something is: what was begun without a name of one's own belongs to all who have none."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request."""

    kind: Literal["shared", "key", "user", "admin"]
    """`shared`: with the one key that has no name, or where none is needed."""
    name: str | None = None
    """Of a key or a user."""
    models: tuple[str, ...] | None = None
    """Patterns of the ids it may use; None: all."""
    requests_per_minute: int | None = None
    concurrent_max: int | None = None
    taken_names: frozenset[str] = frozenset()
    """What a caller without a name may not call itself."""

    @property
    def owner(self) -> Owner:
        """Whose the requests and responses are that it begins."""
        return (self.kind, self.name) if self.name is not None else None

    def may_touch(self, owner: Owner) -> bool:
        """Whether it may see or end what belongs to `owner`."""
        return self.kind == "admin" or self.owner == owner

    def may_use(self, model_id: str) -> bool:
        """Whether a model is for it."""
        return self.models is None or any(fnmatchcase(model_id, pattern) for pattern in self.models)

    def refuse_other_models(self, model_id: str) -> None:
        """Raises `Problem` (403) for a model that is not for it, whether there is one or not."""
        if not self.may_use(model_id):
            message = f"This key may not use the model '{model_id}'; GET /v1/models lists those it may."
            raise Problem(EdgeCode.MODEL_NOT_ALLOWED, message, param="model")

    def client_id(self, claimed: str | None) -> str | None:
        """Under what name its requests are counted: its own, or what it calls itself where it has none."""
        if self.name is not None:
            return self.name
        return claimed if claimed not in self.taken_names else None


ADMIN = Caller(kind="admin")


def caller_of(scope: Scope) -> Caller:
    """The caller that the key check found."""
    caller: Caller = scope["state"]["caller"]
    return caller
