"""Looking at a running system: models, workers, explain, top, doctor."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from stoker.cli import quick
from stoker.cli.app import FOUND, JobId, Json, Url, app, call, console, key_header, print_json
from stoker.cli.jobs import jobs_table
from stoker.cli.memory import over_limit

workers = typer.Typer(invoke_without_command=True)
app.add_typer(workers, name="workers")
TOP_INTERVAL_S = 0.5
ENOUGH_FILES = 4096
"""Open files that a gateway should be allowed: each connection is one."""
TIER_COLOURS = {"hot": "red", "loading": "yellow", "parked": "magenta", "warm": "blue", "cold": "dim"}


def _models_table(models: list[dict[str, Any]]) -> Table:
    table = Table(title="models", title_justify="left")
    for column in ("model", "features", "can do", "queued", "running", "workers"):
        table.add_column(column)
    for model in models:
        queue = model["queue"]
        places = ", ".join(
            f"[{TIER_COLOURS.get(tier, 'white')}]{escape(worker)} {tier}[/]"
            for worker, tier in model["workers"].items()
        )
        features = ", ".join(model["features"])
        table.add_row(
            escape(model["name"]),
            features,
            _card(model.get("card", {})),
            str(queue["queued"]),
            str(queue["running"]),
            places or "-",
        )
    return table


def _card(card: dict[str, Any]) -> str:
    """What a model can do, once it was loaded."""
    shown = []
    if context := card.get("context_tokens"):
        shown.append(f"{context} tokens")
    shown += [card[name] for name in ("quantisation", "pooling") if card.get(name)]
    return escape(", ".join([*shown, *card.get("abilities", ())])) or "-"


def _workers_table(workers: list[dict[str, Any]]) -> Table:
    table = Table(title="workers", title_justify="left")
    for column in ("worker", "profile", "device", "models", "process", "hot", "on disk", "jobs"):
        table.add_column(column)
    for worker in workers:
        used, total = worker["memory_used_bytes"] / 1e6, worker["memory_total_bytes"] / 1e6
        hot = worker.get("vram_models", [])
        disk = [name for name in worker.get("disk_models", []) if name not in hot]
        table.add_row(
            escape(worker["worker"]) + (" (draining)" if worker.get("is_draining") else ""),
            escape(worker["profile"]),
            escape(worker["device"]),
            f"{used:.0f} / {total:.0f} MB",
            _process(worker.get("resources", {})),
            f"[red]{escape(', '.join(hot))}[/]" if hot else "-",
            escape(", ".join(disk)) or "-",
            str(len(worker.get("running", []))),
        )
    return table


def _process(resources: dict[str, Any]) -> str:
    """What a runner process takes, as it measured it."""
    shares = [f"{resources.get('rss_bytes', 0) / 1e6:.0f} MB", f"{resources.get('cpu_percent', 0):.0f} %"]
    if resources.get("gpu_allocated_bytes") is not None:
        shares.append(f"GPU {resources['gpu_allocated_bytes'] / 1e6:.0f} MB")
    return ", ".join(shares)


@app.command()
def models(url: Url = FOUND, json: Json = False) -> None:
    """Models, their queues, and which worker has them where."""
    found = call("GET", url, "/v1/fleet")["models"]
    if json:
        print_json(found)
    else:
        console.print(_models_table(found))


@workers.callback()
def show_workers(context: typer.Context, url: Url = FOUND, json: Json = False) -> None:
    """Workers, their memory, what they have loaded; and inviting them."""
    if context.invoked_subcommand is not None:
        return
    found = call("GET", url, "/v1/fleet")["workers"]
    if json:
        print_json(found)
    else:
        console.print(_workers_table(found))
        for larger in filter(None, map(over_limit, found)):
            console.print(larger, style="yellow", markup=False)


@app.command()
def explain(job: JobId, url: Url = FOUND, json: Json = False) -> None:
    """Why a job went to the worker where it went."""
    found = call("GET", url, f"/v1/jobs/{job}/explain")
    if json:
        print_json(found)
        return
    job, model, chosen, reason = (escape(found[name]) for name in ("job", "model", "chosen", "reason"))
    console.print(f"job {job} ({model}), attempt {found['attempt']}: [bold]{chosen}[/], because {reason}")
    table = Table()
    for column in ("worker", "tier", "wait", "load", "eviction", "run", "verdict"):
        table.add_column(column)
    for candidate in found.get("candidates", []):
        seconds = [candidate.get(f"{term}_s", 0.0) for term in ("wait", "load", "eviction", "run")]
        table.add_row(
            escape(candidate["worker"]),
            candidate["tier"],
            *("-" if value is None else f"{value:.3f} s" for value in seconds),
            escape(candidate.get("verdict", "")),
        )
    console.print(table)
    console.print(f"{found['considered']} workers considered")
    if found.get("parent"):
        console.print(f"called by the job {escape(found['parent'])}")
    for child in found.get("children", []):
        console.print(f"calls {escape(child['model'])}: job {escape(child['id'])}, {child['status']}")


@app.command()
def top(url: Url = FOUND, seconds: Annotated[float, typer.Option(help="Stop after.")] = 0) -> None:
    """Workers, models and jobs as they change; Ctrl-C ends it."""
    from rich.console import Group
    from rich.live import Live

    began = time.monotonic()
    with Live(console=console, screen=not seconds, auto_refresh=False) as live:
        while not seconds or time.monotonic() - began < seconds:
            fleet = call("GET", url, "/v1/fleet")
            listed = call("GET", url, "/v1/jobs", params={"limit": 15})["jobs"]
            live.update(
                Group(_workers_table(fleet["workers"]), _models_table(fleet["models"]), jobs_table(listed)),
                refresh=True,
            )
            time.sleep(TOP_INTERVAL_S)


def _note_configuration(url: str, note: Callable[[str, bool, str, str], None]) -> None:
    """Which revision of the configuration is in use, and why the files are another; nothing without the right
    key."""
    from stoker.services.process.http_clients import client

    with client(url, timeout=3, headers=key_header(url)) as http:
        answer = http.get("/api/models/status")
    told = answer.json().get("configuration") if answer.status_code == 200 else None
    if told is None:
        return
    revision = f"revision {told['revision']}"
    failed = told["failed"]
    found = f"{revision} stays; the last reload failed: {failed['reason']}" if failed else revision
    note("configuration", failed is None, found, "mend the file; it is read again when it changes")


@app.command()
def doctor(url: Url = FOUND, json: Json = False) -> None:
    """What is installed, what is reachable, and what to do about the rest."""
    quick.import_httpx()
    import httpx

    from stoker.services.process import open_files
    from stoker.services.process.devices import find_device
    from stoker.services.process.disk import room_at
    from stoker.services.process.embedded import EmbeddedServerError, find_binary
    from stoker.services.process.http_clients import client
    from stoker.services.process.machine import Machine
    from stoker.services.worker.engines.registry import ENGINES

    findings: list[dict[str, str | bool]] = []

    def note(what: str, is_ok: bool, found: str, remedy: str = "") -> None:
        findings.append({"what": what, "ok": is_ok, "found": found, "remedy": "" if is_ok else remedy})

    device, processors = find_device(), Machine().processors()
    models_gb = device.memory_bytes / 1e9
    note("device", True, f"{device.name}: {models_gb:.1f} GB for models; {processors} processors")
    open_files.raise_limit()
    files = open_files.allowed()
    remedy = "allow more: ulimit -Hn, LimitNOFILE of systemd, ulimits of compose"
    note("open files", files >= ENOUGH_FILES, f"{files:,} at most, and as many connections", remedy)
    try:
        note("nats-server", True, find_binary())
    except EmbeddedServerError as error:
        note("nats-server", False, "missing", str(error))
    for name, entry in ENGINES.items():
        remedy = entry.missing()
        note(f"engine {name}", not remedy, "not here" if remedy else "installed", remedy)
    try:
        with client(url, timeout=3) as http:
            answer = http.get("/health/ready")
        reason = answer.json().get("reason", "ready")
        note(f"gateway {url}", answer.status_code == 200, reason, "see its log")
        _note_configuration(url, note)
    except (httpx.HTTPError, ValueError) as error:
        note(f"gateway {url}", False, str(error), "start it: stoker up")
    room = room_at(Path(".stoker") if Path(".stoker").exists() else Path())
    found = f"{room.free / 1e9:,.1f} of {room.total / 1e9:,.1f} GB free"
    remedy = f"make room: `stoker up` accepts no job with less than {room.low / 1e6:,.0f} MB free"
    note("disk of .stoker", not room.is_low, found, remedy)
    if json:
        print_json(findings)
    else:
        for finding in findings:
            mark = "[green]ok[/]     " if finding["ok"] else "[yellow]missing[/]"
            remedy = f"  → {finding['remedy']}" if finding["remedy"] else ""
            console.print(
                f"{mark} {finding['what']}: {finding['found']}{remedy}", soft_wrap=True, highlight=False
            )
