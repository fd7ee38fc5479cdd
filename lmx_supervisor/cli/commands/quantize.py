"""`lmx quantize`: have a quantized copy of a model made; `lmx quantize list` shows the jobs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import UsageFailure
from lmx_supervisor.cli.quantities import short_duration, short_size
from lmx_supervisor.cli.quantize_progress import QUANTIZE_PATH, follow_job, parse_job
from lmx_supervisor.cli.terminal import print_json, table, terminal_columns

LIST = "list"
_MODEL_COLUMN, _OUTPUT_COLUMN = 1, 5

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx quantize org/model --bits 4   (the jobs: lmx quantize list)")
def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|list", show_default=False, help="An MLX model's id, or `list` for the jobs.")
    ] = LIST,
    *,
    bits: Annotated[int | None, typer.Option("--bits", metavar="N", show_default=False, help="Bits of a weight; 4.")] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", metavar="N", show_default=False, help="Weights that share a scale; 64.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="M", show_default=False, help="affine, mxfp4, mxfp8 or nvfp4.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIRECTORY", show_default=False, help="On the server; must not exist.")
    ] = None,
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="JOB", show_default=False, help="End a job, and do nothing else.")
    ] = None,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Have the server write a quantized copy of a model; returns when it is whole."""
    order = {"bits": bits, "group_size": group_size, "mode": mode, "output_path": str(output.absolute()) if output else None}
    wishes = {name: value for name, value in order.items() if value is not None}
    if (model == LIST or cancel is not None) and wishes:
        raise UsageFailure("--bits, --group-size, --mode and --output go with a MODEL")
    if cancel is not None and model != LIST:
        raise UsageFailure("--cancel takes the id of a job and nothing else")
    with Client(options.connection_from(url, admin_key)) as client:
        if cancel is not None:
            _cancel(client, cancel, as_json=as_json)
        elif model == LIST:
            _list(client, as_json=as_json)
        else:
            _quantize(client, {"source_model": model, **wishes}, as_json=as_json)


def _quantize(client: Client, order: dict[str, Any], *, as_json: bool) -> None:
    job = follow_job(client, parse_job(client.post(QUANTIZE_PATH, order)))
    if as_json:
        print_json(job)
        return
    print(f"{job.source_model} with {job.bits} bits is whole: {short_size(job.output_size_bytes)} in {job.output_path}")
    if job.model_id is not None:
        print(f"load it with: lmx load {job.model_id}")


def _cancel(client: Client, job_id: str, *, as_json: bool) -> None:
    document = client.post(f"{QUANTIZE_PATH}/{job_id}/cancel", {})
    if as_json:
        print_json(document)
    elif document["reason"] == "already_terminal":
        print(f"job {job_id} was {document['status']} already")
    else:
        print(f"job {job_id} is {document['status']}")


def _list(client: Client, *, as_json: bool) -> None:
    document = client.get(QUANTIZE_PATH)
    jobs = [parse_job(item) for item in document["jobs"]]
    if as_json:
        print_json(document)
    elif not jobs:
        print("no model was quantized; try: lmx quantize MODEL")
    else:
        rows = [
            (
                job.job_id,
                job.source_model,
                f"{job.bits}" if job.mode == "affine" else job.mode,
                job.status if job.failure_code in (None, "cancelled_by_user") else f"{job.status}: {job.failure_code}",
                short_duration(job.duration_sec) if job.completed_at is not None else f"{job.progress_percent:.0f}%",
                job.output_path,
            )
            for job in jobs
        ]
        headers = ("JOB", "MODEL", "BITS", "STATUS", "TIME", "OUTPUT")
        print("\n".join(table(headers, rows, shrink=(_OUTPUT_COLUMN, _MODEL_COLUMN), columns=terminal_columns())))
