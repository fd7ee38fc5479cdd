"""`lmx embed`: the vectors of texts."""

import sys
from typing import Annotated, Any

import msgspec
import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import NoAnswer, UsageFailure
from lmx_supervisor.cli.talk import loading_first
from lmx_supervisor.cli.terminal import print_json, write

EMBEDDINGS_PATH = "/v1/embeddings"

app = typer.Typer(add_completion=False)


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float]


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int


class _Vectors(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: _Usage


@app.command(epilog='Example: lmx embed minilm "a cat" "a dog"    or: lmx embed minilm - --json < lines.txt')
def embed(
    model: options.Model,
    texts: Annotated[
        list[str],
        typer.Argument(metavar="TEXT...", show_default=False, help="What to embed; `-` reads texts from stdin, one per line."),
    ],
    *,
    dimensions: Annotated[
        int | None,
        typer.Option("--dimensions", min=1, metavar="N", show_default=False, help="Keep only the first N components."),
    ] = None,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
    api_key: options.ApiKey = None,
) -> None:
    """Print the vector of each text, one per line. A model that is not served yet is loaded first."""
    body: dict[str, Any] = {"model": model, "input": _lines() if texts == ["-"] else texts}
    if dimensions is not None:
        body["dimensions"] = dimensions
    with Client(options.connection_from(url, admin_key, api_key)) as client:
        document = loading_first(client, model, lambda: client.post(EMBEDDINGS_PATH, body, answer_seconds=None))
    try:
        answer = msgspec.convert(document, _Vectors)
    except msgspec.ValidationError as error:
        raise NoAnswer("the server answered with something else than vectors; is this an LMX server?") from error
    vectors = [entry.embedding for entry in answer.data]
    if as_json:
        print_json({"model": model, "vectors": vectors, "prompt_tokens": answer.usage.prompt_tokens})
    else:
        write("".join(f"{msgspec.json.encode(vector).decode()}\n" for vector in vectors))


def _lines() -> list[str]:
    text = sys.stdin.read(limits.TEXTS_BYTES_MAX + 1)
    if len(text) > limits.TEXTS_BYTES_MAX:
        raise UsageFailure(f"the texts on stdin are longer than {limits.TEXTS_BYTES_MAX} characters")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UsageFailure("stdin is empty; a text of '-' means one text per line from there")
    return lines
