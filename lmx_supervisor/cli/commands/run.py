"""`lmx run`: one prompt, one answer."""

import sys
from typing import Annotated

import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.answer import Answer
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import UsageFailure
from lmx_supervisor.cli.talk import Question, ask_loading, conversation
from lmx_supervisor.cli.terminal import print_json, remark

app = typer.Typer(add_completion=False)


@app.command(epilog='Example: lmx run tiny "Why is the sky blue?"    or: lmx run tiny - < question.txt')
def run(
    model: options.Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", show_default=False, help="The question; `-` reads it from stdin.")],
    *,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, metavar="N", show_default=False, help="Makes the answer repeatable.")
    ] = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
    api_key: options.ApiKey = None,
) -> None:
    """Ask a model and stream its answer to stdout. A model that is not served yet is loaded first."""
    text = _read_prompt() if prompt == "-" else prompt
    question = Question(
        model=model,
        messages=conversation(system, [{"role": "user", "content": text}]),
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )
    answer = Answer()
    with Client(options.connection_from(url, admin_key, api_key)) as client:
        measured = ask_loading(client, question, answer, aloud=not as_json)
    if as_json:
        print_json({"model": model, "text": answer.text, "finish_reason": answer.finish_reason, **measured.figures()})
    elif verbose:
        remark(measured.summary())


def _read_prompt() -> str:
    text = sys.stdin.read(limits.BODY_BYTES_MAX + 1)
    if not text.strip():
        raise UsageFailure("stdin is empty; a prompt of '-' is read from there")
    if len(text) > limits.BODY_BYTES_MAX:
        raise UsageFailure(f"the prompt on stdin is longer than {limits.BODY_BYTES_MAX} characters")
    return text
