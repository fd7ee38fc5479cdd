"""`lmx top`: what runs, again and again."""

import time
from typing import Annotated, Any

import msgspec
import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, NoAnswer
from lmx_supervisor.cli.quantities import short_size, short_wait
from lmx_supervisor.cli.terminal import print_json, printable, table, terminal_columns

STATUS_PATH = "/admin/status"

_HEADERS = ("MODEL", "STATE", "RUN", "LINE", "TOK/S", "PRE/S", "TTFT", "WAIT", "USED", "RSVD", "RST")
_SHRINK = (0, 1)
_GB = 1024**3

app = typer.Typer(add_completion=False)


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    total_gb: float
    used_gb: float
    reserved_gb: float
    free_gb: float
    load_shedding: bool


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    state: str
    running_requests: int
    waiting_requests: int
    concurrent_limit: int
    tokens_per_second: float
    prefill_tokens_per_second: float
    ttft_p95_sec: float | None
    queue_wait_p95_sec: float | None
    memory_gb: float | None
    reserved_gb: float
    restarts: int


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    in_flight_requests: int
    waiting_requests: int
    concurrent_limit: int
    memory: _Memory
    per_model: dict[str, _Model]


@app.command(epilog="Example: lmx top    or, for a script: lmx top --json")
def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once, as into a file or a pipe.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.1, max=3600, metavar="SECONDS", help="How often to look.")
    ] = limits.CLI_TOP_SECONDS,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Watch the models: requests, waits, speeds and memory, until Ctrl-C."""
    with Client(options.connection_from(url, admin_key)) as client:
        document = client.get(STATUS_PATH)
        if as_json:
            print_json(document)
        elif once or terminal_columns() is None:
            print("\n".join(top_lines(document, terminal_columns())))
        else:
            _watch(client, document, interval)


def top_lines(document: Any, columns: int | None) -> list[str]:
    """The service in two lines, then its models, the busiest first. Raises `NoAnswer` for another kind of document."""
    try:
        status = msgspec.convert(document, _Status)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{STATUS_PATH} answers in a form this version of lmx does not know ({error})") from error
    memory = status.memory
    budget = f"{memory.reserved_gb:.1f} reserved, {memory.free_gb:.1f} free"
    shedding = "; requests are refused" if memory.load_shedding else ""
    models = sorted(status.per_model.items(), key=lambda item: (-item[1].running_requests, -item[1].waiting_requests, item[0]))
    head = [
        f"requests  {status.in_flight_requests} of at most {status.concurrent_limit}, {status.waiting_requests} waiting",
        f"memory    {memory.used_gb:.1f} of {memory.total_gb:.1f} GB used, {budget}{shedding}",
    ]
    body = table(_HEADERS, [_row(model_id, model) for model_id, model in models], shrink=_SHRINK, columns=columns)
    return [*(line if columns is None else line[:columns] for line in head), *body]


def _row(model_id: str, model: _Model) -> tuple[str, ...]:
    return (
        model_id,
        model.state,
        f"{model.running_requests}/{model.concurrent_limit}",
        str(model.waiting_requests),
        f"{model.tokens_per_second:.0f}",
        f"{model.prefill_tokens_per_second:.0f}",
        short_wait(model.ttft_p95_sec),
        short_wait(model.queue_wait_p95_sec),
        short_size(None if model.memory_gb is None else model.memory_gb * _GB),
        short_size(model.reserved_gb * _GB or None),
        str(model.restarts),
    )


def _watch(client: Client, document: Any, interval: float) -> None:
    """Redraw in place. A server that does not answer for a while is said to, and asked again."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    trouble = ""
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            lines = [*top_lines(document, live.console.width), *([trouble] if trouble else [])]
            live.update(Text(printable("\n".join(lines)), no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(interval)
            try:
                document, trouble = client.get(STATUS_PATH), ""
            except CommandFailure as failure:
                trouble = f"as it was; now: {failure}"
