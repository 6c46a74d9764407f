"""`stoker chaos` on the command line."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from stoker.chaos.plan import KINDS, PAUSES_S, ROLES, Choice, Kind, Role
from stoker.cli import quick
from stoker.cli.app import FOUND, Json, Url, app, errors, fail, print_json
from stoker.cli.serve import Configs, read_configuration

if TYPE_CHECKING:
    from stoker.chaos.report import Report
    from stoker.chaos.run import Wishes
    from stoker.services.catalog.load import Configuration


def _example() -> Configuration:
    """Without a configuration: the synthetic engine, which needs no weights."""
    from stoker.schemas.catalog import Model, Spec
    from stoker.services.catalog.load import Configuration, WorkerEntry

    slow = Spec("default", "synthetic", "", options={"token_interval_s": 0.05}, slots=8)
    return Configuration(
        models=(
            Model("echo", ("TextGeneration",), (Spec("default", "synthetic", ""),)),
            Model("slow", ("TextGeneration",), (slow,)),
        ),
        workers=(WorkerEntry(count=3, memory="512MB", engines=("synthetic",)),),
    )


PAUSES = ",".join(f"{seconds:g}" for seconds in PAUSES_S)
MAX_PAUSE_S = 60.0
"""A client gives up after 90 s without an answer."""


@app.command()
def chaos(
    config: Configs = None,
    attach: Annotated[
        Path | None, typer.Option(help="Disturb what `stoker up --data` of this folder runs, not an own one.")
    ] = None,
    url: Url = FOUND,
    yes: Annotated[bool, typer.Option("--yes", help="With --attach: do not ask.")] = False,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 5.0,
    jobs: Annotated[int, typer.Option(min=0, help="End after so many requests; 0: after the minutes.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same plan.")] = 1,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between faults, on average.")] = 2.0,
    at_once: Annotated[int, typer.Option(min=1, help="Clients.")] = 8,
    pace: Annotated[float, typer.Option(min=0.0, help="Seconds that a client waits between requests.")] = 0.0,
    faults: Annotated[str, typer.Option(help=f"Only these, by commas: {', '.join(KINDS)}.")] = ",".join(KINDS),
    pauses: Annotated[str, typer.Option(help="Seconds that a pause lasts, one of these by commas.")] = PAUSES,
    servers: Annotated[int, typer.Option(help="Servers of NATS: 1, or 3 as one cluster.")] = 1,
    only: Annotated[str, typer.Option(help=f"Only these, by commas: {', '.join(ROLES)}.")] = ",".join(ROLES),
    json: Json = False,
) -> None:
    """Kill, pause and cut off processes under traffic; 1 if a promise broke."""
    from stoker.chaos.run import Wishes
    from stoker.services.process.logs import configure_logs

    wishes = Wishes(
        seed=seed,
        seconds=minutes * 60.0,
        every_s=every,
        at_once=at_once,
        jobs=jobs,
        pace_s=pace,
        servers=servers,
        choice=Choice(
            kinds=[kind for kind in get_args(Kind) if kind in _chosen(faults, KINDS, "--faults")],
            roles=[role for role in get_args(Role) if role in _chosen(only, ROLES, "--only")],
            pauses_s=_seconds(pauses),
        ),
    )
    if servers not in (1, 3):
        fail("--servers: NATS runs as one server or as three", 2)
    configure_logs("error", "text")
    report = _disturb(attach, url, yes, wishes) if attach is not None else _own(config, wishes)
    if json:
        print_json(report.as_dict())
    else:
        print("\n".join(report.lines()))
    raise typer.Exit(0 if report.is_good else 1)


def _chosen(listed: str, known: tuple[str, ...], option: str) -> set[str]:
    chosen = {one.strip() for one in listed.split(",") if one.strip()}
    if unknown := chosen - set(known):
        fail(f"{option}: {', '.join(sorted(unknown))} is not known; there are {', '.join(known)}", 2)
    return chosen


def _seconds(listed: str) -> list[float]:
    try:
        found = [float(one) for one in listed.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one <= MAX_PAUSE_S for one in found):
        fail(f"--pauses: {listed!r} is not a list of seconds, each up to {MAX_PAUSE_S:g}", 2)
    return found


def _say(line: str) -> None:
    errors.print(f"[dim]stoker:[/] {line}", highlight=False)


def _run(work: Coroutine[Any, Any, Report]) -> Report:
    """The report. SIGTERM ends the work as Ctrl-C does: what is paused goes on, and what was started ends."""

    async def ended_by_signals() -> Report:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(ended_by_signals())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


def _own(config: list[Path] | None, wishes: Wishes) -> Report:
    quick.import_httpx()
    import httpx

    from stoker.chaos.run import NothingToAsk, run_own
    from stoker.chaos.system import CannotStart
    from stoker.services.process.embedded import EmbeddedServerError

    configuration = read_configuration(config) if config else _example()
    data = Path(tempfile.mkdtemp(prefix="stoker-chaos-"))
    try:
        report = _run(run_own(configuration, data, wishes, _say))
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(data, ignore_errors=True)
        raise
    except (NothingToAsk, CannotStart, EmbeddedServerError, httpx.HTTPError) as error:
        fail(str(error) or type(error).__name__, 2)
    if report.is_good:
        shutil.rmtree(data)
    else:
        _say(f"what each process said is in {data}")
    return report


def _disturb(data: Path, url: str, is_sure: bool, wishes: Wishes) -> Report:
    quick.import_httpx()
    import httpx

    from stoker.chaos.run import NothingToAsk, prompts_of, run
    from stoker.chaos.system import Attached
    from stoker.schemas.catalog import Model
    from stoker.services.process.http_clients import async_client

    system = Attached(data, [url])
    if not system.pids("scheduler"):
        fail(f"no `stoker up` runs with --data {data}", 2)
    if not is_sure:
        typer.confirm(f"Kill and pause processes of the installation in {data}?", abort=True)
        typer.confirm("Its users will notice. Are you sure?", abort=True)

    async def disturb() -> Report:
        async with async_client(url) as http:
            answer = await http.get(url + "/v1/models")
            names = [model["id"] for model in answer.raise_for_status().json()["data"]]
        models = [Model(name, ("TextGeneration",), ()) for name in names]
        return await run(system, prompts_of(models), wishes, _say)

    try:
        return _run(disturb())
    except (NothingToAsk, httpx.HTTPError) as error:
        fail(str(error) or type(error).__name__, 2)
