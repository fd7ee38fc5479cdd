"""What has to be loaded so that a request for a name is served: the name may be an alias."""

from typing import Any, TypeVar

import msgspec

from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import NoAnswer

AVAILABLE_PATH = "/admin/models/available"
STACK_PATH = "/admin/stack"

Document = TypeVar("Document")


class _Role(msgspec.Struct, frozen=True):
    preferences: tuple[str, ...]


class _Stack(msgspec.Struct, frozen=True):
    roles: dict[str, _Role]


class _Available(msgspec.Struct, frozen=True):
    repo_id: str


def model_to_load(client: Client, name: str) -> str | None:
    """The id of that model: of an alias the first one on the server's disk, None where none is. Raises `CommandFailure`."""
    role = _document(client, STACK_PATH, _Stack).roles.get(name)
    if role is None:
        return name
    here = {model.repo_id for model in _document(client, AVAILABLE_PATH, list[_Available])}
    return next((model_id for model_id in role.preferences if model_id in here), None)


def _document(client: Client, path: str, form: type[Document]) -> Document:
    document: Any = client.get(path)
    try:
        return msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{path} answers in a form this version of lmx does not know ({error})") from error
