"""`lmx status`: how the service is, and waiting until it is ready."""

import textwrap
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from lmx_protocol import limits
from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, NoAnswer, NoServer
from lmx_supervisor.cli.quantities import short_duration
from lmx_supervisor.cli.terminal import print_json, remark, terminal_columns

STATUS_PATH = "/admin/status"

app = typer.Typer(add_completion=False)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The host's memory, in 1024³ bytes."""

    total_gb: float
    used_gb: float
    usage_percent: float
    reserved_gb: float = 0.0
    """Promised to models."""
    free_gb: float | None = None
    """What a load may still reserve; None: this server does not say."""
    load_shedding: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of GET /admin/status that are shown."""

    version: str
    uptime_seconds: float
    models: tuple[str, ...]
    memory: Memory
    in_flight_requests: int
    waiting_requests: int = 0
    concurrent_limit: int | None = None


@app.command(epilog="Example: lmx status --wait 60 && lmx ps")
def status(
    *,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            min=0,
            metavar="SECONDS",
            show_default=False,
            help="Return when a model is served; status 1 when none is by then.",
        ),
    ] = None,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Show the service as a whole: version, readiness, models, memory."""
    if wait is not None:
        _wait_until_ready(url, admin_key, wait)
    with Client(options.connection_from(url, admin_key)) as client:
        unready = client.readiness()
        document = client.get(STATUS_PATH)
        if as_json:
            print_json({**document, "url": client.url, "ready": unready is None, "reason": unready})
        else:
            print("\n".join(status_lines(client.url, unready, document, terminal_columns())))


def status_lines(url: str, unready: str | None, document: Any, columns: int | None) -> list[str]:
    """The text for people, the names of the models in lines of `columns` characters where that is given.

    Raises `NoAnswer` when the document has another shape than the server gives it.
    """
    try:
        service = msgspec.convert(document, Status)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{STATUS_PATH} answers in a form this version of lmx does not know ({error})") from error
    memory = service.memory
    return [
        f"LMX {service.version} at {url}, " + ("ready" if unready is None else f"not ready: {unready}"),
        f"uptime    {short_duration(service.uptime_seconds)}",
        *_models(service.models, columns),
        f"requests  {service.in_flight_requests} in flight" + _limits(service),
        f"memory    {memory.used_gb:.1f} of {memory.total_gb:.1f} GB used ({memory.usage_percent:.0f} %)" + _budget(memory),
        *(["shedding  requests are refused until less memory is in use"] if memory.load_shedding else []),
    ]


def _models(models: Sequence[str], columns: int | None) -> list[str]:
    text = f"models    {', '.join(models) or 'none'}"
    if columns is None:
        return [text]
    return textwrap.wrap(text, columns, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False)


def _limits(service: Status) -> str:
    limit = "" if service.concurrent_limit is None else f" of at most {service.concurrent_limit}"
    return limit + (f", {service.waiting_requests} waiting" if service.waiting_requests else "")


def _budget(memory: Memory) -> str:
    if memory.free_gb is None:
        return ""
    return f", {memory.reserved_gb:.1f} GB reserved, {memory.free_gb:.1f} GB free"


def _wait_until_ready(url: str | None, admin_key: str | None, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    told = None
    while True:
        try:
            # Found anew each time: a server that is starting writes its address only when it listens.
            with Client(options.connection_from(url, admin_key)) as client:
                unready = client.readiness()
        except NoServer:
            unready = "no server yet"
        if unready is None:
            return
        if time.monotonic() > deadline:
            raise CommandFailure(f"not ready after {wait_seconds:g} s: {unready}")
        if unready != told:
            remark(f"waiting: {unready}")
            told = unready
        time.sleep(limits.CLI_POLL_SECONDS)
