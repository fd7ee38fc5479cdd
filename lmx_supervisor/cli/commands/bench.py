"""`lmx bench`: how fast a served model answers."""

from typing import Annotated, Any

import typer

from lmx_supervisor.cli import options
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.terminal import print_json, remark, table, terminal_columns

BENCHMARK_PATH = "/admin/benchmark"
RUN_PATH = "/admin/benchmark/run"

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx bench smollm2-135m-instruct --runs 3")
def bench(
    model: options.Model,
    *,
    runs: Annotated[int, typer.Option("--runs", min=1, max=20, help="Generations, one after the other.")] = 3,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=4096, help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0: always the likeliest token.")] = 0.0,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", show_default=False, help="What to ask, instead of the usual.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the result on the server, after one run to warm up; needs 50 to 2000 tokens.")
    ] = False,
    as_json: options.Json = False,
    url: options.Url = None,
    admin_key: options.AdminKey = None,
) -> None:
    """Measure a served model with real generations; Ctrl-C ends them."""
    order: dict[str, Any] = {"model_id": model, "temperature": temperature}
    if prompt is not None:
        order["prompt"] = prompt
    with Client(options.connection_from(url, admin_key)) as client:
        if keep:
            remark(f"{model}: 1 run to warm up, {runs} to be measured")
            order = {**order, "runs": runs, "num_output_tokens": max_tokens}
            document = client.post(RUN_PATH, order, answer_seconds=None)
        else:
            document = _one_by_one(client, {**order, "max_tokens": max_tokens, "runs": 1}, runs)
    if as_json:
        print_json(document)
    elif keep:
        print("\n".join(_kept_lines(document)))
    else:
        print("\n".join(_run_lines(document)))


def _one_by_one(client: Client, order: dict[str, Any], runs: int) -> dict[str, Any]:
    """As the server answers for all runs; each is asked for by itself, so that progress can be shown."""
    answers = []
    for number in range(1, runs + 1):
        remark(f"{order['model_id']}: run {number} of {runs}")
        answers.append(client.post(BENCHMARK_PATH, order, answer_seconds=None))
    results = [{**answer["results"][0], "run": number} for number, answer in enumerate(answers, start=1)]
    averages = {name: sum(answer[name] for answer in answers) / runs for name in answers[0] if name.startswith("avg_")}
    return {**answers[0], "runs": runs, "results": results, **averages}


def _run_lines(document: dict[str, Any]) -> list[str]:
    figures = ("tokens_generated", "time_to_first_token_ms", "total_time_ms", "tokens_per_second")
    rows = [_row(str(run["run"]), *(run[name] for name in figures)) for run in document["results"]]
    first, total = document["avg_time_to_first_token_ms"], document["avg_total_time_ms"]
    rows.append(_row("average", None, first, total, document["avg_tokens_per_second"]))
    return table(("RUN", "TOKENS", "FIRST TOKEN", "TOTAL", "TOKENS/S"), rows, columns=terminal_columns())


def _row(run: str, tokens: int | None, first_ms: float, total_ms: float, speed: float) -> tuple[str, ...]:
    return (run, "" if tokens is None else str(tokens), f"{first_ms:.0f} ms", f"{total_ms:.0f} ms", f"{speed:.1f}")


def _kept_lines(document: dict[str, Any]) -> list[str]:
    stats = document["stats"]
    rows = [
        ("first token", *(f"{1000 * stats[f'ttft_{name}_sec']:.0f} ms" for name in ("p50", "p95", "mean"))),
        ("tokens/s", *(f"{stats[f'toks_per_sec_{name}']:.1f}" for name in ("p50", "p95", "mean"))),
    ]
    summary = f"{stats['runs_completed']} runs, {stats['output_tokens']} tokens, {document['status']}; "
    summary += f"the text is {stats['coherence_flag']}"
    return [*table(("", "P50", "P95", "MEAN"), rows, columns=terminal_columns()), summary]
