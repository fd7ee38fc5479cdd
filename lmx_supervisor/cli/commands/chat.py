"""`lmx chat`: a conversation in the terminal."""

import contextlib
import sys

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.answer import Answer
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, UsageFailure
from lmx_supervisor.cli.talk import Question, ask_loading, conversation
from lmx_supervisor.cli.terminal import remark

_HELP = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer"
_PROMPT = ">>> "

app = typer.Typer(add_completion=False)


class Conversation:
    """The turns so far, and the settings that hold for all of them."""

    def __init__(self, client: Client, question: Question, *, system: str | None, verbose: bool) -> None:
        self._client = client
        self._question = question
        self._system = system
        self._verbose = verbose
        self._turns: list[dict[str, str]] = []

    def clear(self) -> None:
        """Forget all turns."""
        self._turns.clear()

    def say(self, text: str) -> None:
        """One turn: print the answer as it comes and remember both. Ctrl-C ends the answer and keeps what came.

        Raises:
            CommandFailure: no whole answer; the turn is forgotten, so that it can be said again.
        """
        turns = [*self._turns, {"role": "user", "content": text}]
        question = Question(
            model=self._question.model,
            messages=conversation(self._system, turns),
            temperature=self._question.temperature,
            max_tokens=self._question.max_tokens,
        )
        answer = Answer()
        try:
            measured = ask_loading(self._client, question, answer, aloud=True)
            if self._verbose:
                remark(measured.summary())
        except KeyboardInterrupt:
            remark("[stopped]")
        if answer.text:
            self._turns = [*turns, {"role": "assistant", "content": answer.text}]


@app.command(epilog="Example: lmx chat tiny --system 'You answer in one sentence.'")
def chat(
    model: options.Model,
    *,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    verbose: options.Verbose = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
    api_key: options.ApiKey = None,
) -> None:
    """Talk with a model; it remembers the conversation. Lines that are piped in are said one after the other."""
    interactive = sys.stdin.isatty()
    settings = Question(model=model, messages=(), temperature=temperature, max_tokens=max_tokens)
    with Client(options.connection_from(url, admin_key, api_key)) as client:
        # Said now and not after the first question has been typed.
        client.readiness()
        talk = Conversation(client, settings, system=system, verbose=verbose)
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - its import gives `input` line editing and a history
            remark(f"{model}: {_HELP}")
        while (line := _next_line(interactive)) is not None:
            if line in ("/exit", "/bye", "/quit"):
                return
            if line == "/clear":
                talk.clear()
                remark("[forgotten]")
            elif line in ("/help", "/?"):
                remark(_HELP)
            elif line:
                _say(talk, line, interactive)


def _say(talk: Conversation, line: str, interactive: bool) -> None:
    try:
        talk.say(line)
    except CommandFailure as failure:
        if not interactive:
            raise
        remark(f"error: {failure}")


def _next_line(interactive: bool) -> str | None:
    try:
        return input(_PROMPT if interactive else "").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        if not interactive:
            raise
        remark("\n" + _HELP)
        return ""
    except UnicodeDecodeError as error:
        raise UsageFailure(f"stdin is not text: {error}") from error
