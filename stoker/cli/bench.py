"""Load tests on the command line."""

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stoker.bench import report, traces
from stoker.bench.profiles import NoProfile, Profile, Use, processes_of, profiling
from stoker.bench.samples import Sample, quantile, summary
from stoker.cli.app import FOUND, Json, Url, app, call, console, fail, key_header, print_json

LATELY = 100
"""Samples that the progress bar's median is of."""


@app.command()
def bench(
    models: Annotated[list[str] | None, typer.Argument(help="Models to ask, the most popular first.")] = None,
    url: Url = FOUND,
    json: Json = False,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="Closed loop: how many.")] = 100,
    at_once: Annotated[int, typer.Option(min=1, help="Closed loop: askers.")] = 8,
    rate: Annotated[float, typer.Option(min=0.0, help="Open loop: requests a second, by chance.")] = 0.0,
    duration: Annotated[float, typer.Option(min=0.1, help="Open loop: seconds.")] = 30.0,
    zipf: Annotated[float, typer.Option(min=0.0, help="Popularity falls as rank to the minus this.")] = 0.0,
    burst: Annotated[float, typer.Option(min=0.1, help="Open loop: the rate x this, one second in ten.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of a text model.")] = 32,
    trace: Annotated[Path | None, typer.Option(help="Ask what this file says, when it says so.")] = None,
    save_trace: Annotated[Path | None, typer.Option(help="Write down what is asked.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed asks the same.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML report; a PNG beside it.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Folder for flame graphs of the processes here.")] = None,
) -> None:
    """Ask a running system many times, and show how quick it was.

    A closed loop, an open loop (--rate) or a trace; plots with --out.
    """
    if trace is not None:
        try:
            asks = traces.read(trace)
        except (OSError, traces.BadTrace) as error:
            fail(str(error), 2)
    elif not models:
        fail("name a model, or give a --trace", 2)
    elif rate:
        made = traces.generate(models, rate, duration, zipf=zipf, burst=burst, max_tokens=max_tokens, seed=seed)
        asks = list(made)
    else:
        asks = list(traces.repeat(models, requests, max_tokens, zipf, seed))
    if not asks:
        fail("there is nothing to ask", 2)
    if save_trace is not None:
        traces.write(save_trace, asks)
    is_open = trace is not None or rate > 0
    with _profiled(url, profile) as profiled:
        samples = _run(url, asks, 0 if is_open else at_once, is_quiet=json)
    if json:
        print_json(summary(samples) | ({"processes": profiled.uses} if profile else {}))
    else:
        _show(summary(samples))
        _show_uses(profiled.uses, len(samples))
    if out is not None:
        _write(out, url, samples)


@contextmanager
def _profiled(url: str, folder: Path | None) -> Iterator[Profile]:
    """The processes of the system are watched where a folder is given."""
    if folder is None:
        yield Profile()
        return
    try:
        with profiling(processes_of(url), folder) as profile:
            yield profile
    except NoProfile as error:
        fail(str(error), 2)


def _show_uses(uses: list[Use], requests: int) -> None:
    if not uses:
        return
    table = Table(title="processes", title_justify="left")
    for column in ("", "CPU ms a request", "switches a request", "flame graph"):
        table.add_column(column, justify="left" if column in ("", "flame graph") else "right")
    for use in uses:
        each = max(requests, 1)
        table.add_row(use.process, f"{1000 * use.cpu_s / each:.2f}", f"{use.switches / each:.1f}", use.graph)
    console.print(table)


def _run(url: str, asks: list[traces.Ask], at_once: int, *, is_quiet: bool) -> list[Sample]:
    """at_once: 0 for an open loop."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    try:
        from stoker.bench.load import LoadTest
    except ImportError as error:
        fail(f"load tests need {error.name}: pip install 'stoker[bench]'", 2)
    features = {
        name: call("GET", url, f"/v1/models/{name}")["features"] for name in {ask.model for ask in asks}
    }
    image_models = {name for name, found in features.items() if "TextGeneration" not in found}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=is_quiet) as bar:
        task = bar.add_task("asking", total=len(asks))
        lately: deque[float] = deque(maxlen=LATELY)
        errors = 0

        def told(sample: Sample) -> None:
            nonlocal errors
            errors += bool(sample.error)
            if sample.first_s:
                lately.append(sample.first_s)
            first_ms = quantile(lately, 0.5) * 1000
            bar.update(task, advance=1, description=f"{errors} errors, first token {first_ms:.0f} ms")

        test = LoadTest(url, key_header(url), image_models, told)
        try:
            asyncio.run(test.run_closed(asks, at_once) if at_once else test.run_open(asks))
        except KeyboardInterrupt:  # what has been answered is worth a report
            pass
    return test.samples


def _show(found: dict[str, Any]) -> None:
    for name in report.COUNTS:
        console.print(f"{name:<15}{found[name]}", highlight=False)
    table = Table(title="milliseconds", title_justify="left")
    columns = list(found["first"])
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, key in report.TIMES:
        table.add_row(name, *(f"{found[key][column] * 1000:.1f}" for column in columns))
    console.print(table)


def _write(out: Path, url: str, samples: list[Sample]) -> None:
    try:
        report.write(out, f"Load test of {url}", samples)
    except ImportError as error:
        fail(f"plots need {error.name}: pip install 'stoker[bench]'")
    except OSError as error:
        fail(f"{out}: {error.strerror}")
    console.print(f"report: {out}{os.linesep}plots: {out.with_suffix('.png')}", highlight=False)
