"""Schedules: calls at times that repeat."""

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from stoker.cli.app import FOUND, Json, Url, app, call, console, fail, print_json

group = typer.Typer(no_args_is_help=True, help="Calls at times that repeat, as cron has them.")
app.add_typer(group, name="schedule")

PATH = "/v1/schedules"
Name = Annotated[str, typer.Argument(help="Of the schedule.")]


def _input(payload: str) -> dict[str, Any]:
    """A payload: a file, "-" for what comes in, or JSON itself."""
    try:
        content = sys.stdin.buffer.read() if payload == "-" else _content(payload)
        found: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
    except OSError as error:
        fail(f"{payload} cannot be read: {error.strerror}", 2)
    except msgspec.MsgspecError as error:
        fail(f"the payload is no JSON object: {error}", 2)
    return found


def _content(payload: str) -> bytes:
    return payload.encode() if payload.lstrip().startswith("{") else Path(payload).read_bytes()


def _show(found: dict[str, Any], json: bool) -> None:
    if json:
        print_json(found)
        return
    nexts = ", ".join(found["next"]) or "none, it is paused"
    console.print(
        f"{escape(found['name'])}: {escape(found['model'])} at {escape(found['cron'])}; next: {nexts}"
    )


@group.command()
def add(
    name: Name,
    model: Annotated[str, typer.Argument(help="A function, or a model.")],
    payload: Annotated[str, typer.Argument(help="A file of JSON, - for what comes in, or JSON.")] = "{}",
    cron: Annotated[str, typer.Option(help='Minute hour day month weekday, as "*/5 * * * *".')] = "",
    timezone: Annotated[str, typer.Option(help="Such as Europe/Berlin.")] = "UTC",
    missed: Annotated[str, typer.Option(help="Times that nobody could keep: skip, or last.")] = "skip",
    overlap: Annotated[str, typer.Option(help="While the last job runs: allow, or skip.")] = "allow",
    priority: Annotated[int, typer.Option(help="-10 to 10.")] = 0,
    url: Url = FOUND,
    json: Json = False,
) -> None:
    """Make a schedule."""
    if not cron:
        fail('--cron is missing, such as --cron "*/5 * * * *"', 2)
    body = {
        "name": name,
        "model": model,
        "input": _input(payload),
        "cron": cron,
        "timezone": timezone,
        "missed": missed,
        "overlap": overlap,
        "priority": priority,
    }
    _show(call("POST", url, PATH, json=body), json)


@group.command("list")
def list_schedules(url: Url = FOUND, json: Json = False) -> None:
    """Every schedule, with its next time and its last job."""
    found = call("GET", url, PATH)["schedules"]
    if json:
        print_json(found)
        return
    table = Table()
    for column in ("name", "calls", "cron", "time zone", "next", "last job", ""):
        table.add_column(column)
    for one in found:
        at = "paused" if one["paused"] else next(iter(one["next"]), "")
        row = (one["name"], one["model"], one["cron"], one["timezone"], at, one["last_job"], one["last_error"])
        table.add_row(*map(escape, row))
    console.print(table)


def _of(name: str) -> str:
    return f"{PATH}/{quote(name, safe='')}"


@group.command()
def remove(name: Name, url: Url = FOUND) -> None:
    """Remove a schedule; jobs that it has started go on."""
    call("DELETE", url, _of(name))
    console.print(f"removed {escape(name)}")


@group.command()
def pause(name: Name, url: Url = FOUND, json: Json = False) -> None:
    """Keep none of its times until it is resumed."""
    _show(call("POST", url, f"{_of(name)}/pause"), json)


@group.command()
def resume(name: Name, url: Url = FOUND, json: Json = False) -> None:
    """Keep its times again, from now on."""
    _show(call("POST", url, f"{_of(name)}/resume"), json)


@group.command("run-now")
def run_now(name: Name, url: Url = FOUND, json: Json = False) -> None:
    """Start its job now, beside its times."""
    found = call("POST", url, f"{_of(name)}/run")
    if json:
        print_json(found)
    else:
        console.print(f"job {escape(found['id'])}", highlight=False)
