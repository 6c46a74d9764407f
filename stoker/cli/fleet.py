"""Specs and their replicas, and what happened on the platform."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from stoker.cli import quick
from stoker.cli.app import FOUND, Json, Url, app, call, console, fail, key_header, print_json

KIND_COLOURS = {
    "launched": "cyan", "ready": "green", "kept": "green", "joined": "green", "failed": "red", "lost": "red",
    "backoff": "yellow", "downscaled": "magenta", "drained": "magenta",
}  # fmt: skip
RECONNECT_S = 1.0


@app.command()
def specs(model: Annotated[str, typer.Argument()] = "", url: Url = FOUND, json: Json = False) -> None:
    """Replicas of models with hardware of their own: wanted, there, why not."""
    models = call("GET", url, "/v1/fleet")["models"]
    if model:
        models = [one for one in models if one["name"] == model]
        if not models:
            fail(f"there is no model {model!r}")
    else:  # models that any started worker serves have nothing to tell here
        models = [one for one in models if len(one["specs"]) > 1 or one["specs"][0]["profile"]]
    if json:
        print_json({one["name"]: one["specs"] for one in models})
        return
    table = Table(title="specs", title_justify="left")
    for column in ("model", "spec", "engine", "profile", "target", "wanted", "ready", "starting", "condition"):
        table.add_column(column)
    for one in models:
        for spec in one["specs"]:
            target = str(spec["target_requests"]) if spec["target_requests"] else "standby"
            table.add_row(
                escape(one["name"]),
                escape(spec["name"]),
                spec["engine"],
                escape(f"{spec['profile'] or '-'} ({spec['launcher']})"),
                target,
                str(spec["desired"]),
                str(spec["ready"]) + (f" (+{spec['draining']} draining)" if spec["draining"] else ""),
                str(spec["starting"]),
                _condition(spec["condition"]),
            )
    console.print(table)


def _condition(condition: dict[str, Any] | None) -> str:
    if condition is None:
        return "-"
    left_s = max(condition.get("retry_at", 0.0) - time.time(), 0.0)
    again = f", again in {left_s:.0f} s" if left_s else ""
    return f"[red]{escape(condition['reason'])}[/]: {escape(condition['message'])}{again}"


@app.command()
def events(
    url: Url = FOUND,
    json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens now.")] = False,
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    kind: Annotated[str, typer.Option(help="Only this kind.")] = "",
    limit: Annotated[int, typer.Option(help="How many, without --follow.")] = 100,
) -> None:
    """What happened and why, oldest first."""
    query = {"model": model, "kind": kind}
    if follow:
        for event in _follow(url, query):
            _show(event, json)
        return
    for event in call("GET", url, "/v1/events", params=query | {"limit": str(limit)})["events"]:
        _show(event, json)


def _show(event: dict[str, Any], json: bool) -> None:
    if json:
        print_json(event)
        return
    at = time.strftime("%H:%M:%S", time.localtime(event["at"])) + f".{int(event['at'] % 1 * 1000):03d}"
    colour = KIND_COLOURS.get(event["kind"], "white")
    worker = event.get("worker", "")
    where = f" {worker}" if worker and worker != event["subject"] else ""
    subject, told = escape(event["subject"]), escape(f"{where}: {event['reason']}")
    console.print(
        f"[dim]{at}[/] [{colour}]{event['kind']:<10}[/] [bold]{subject}[/]{told}",
        highlight=False,
        soft_wrap=True,
    )


def _follow(url: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Events for ever; a broken connection is resumed where it broke."""
    quick.import_httpx()
    import httpx

    from stoker.services.process.http_clients import client
    from stoker.sse import EventReader

    reader = EventReader()
    while True:
        headers = {"Accept": "text/event-stream", **key_header(url), **reader.resume()}
        try:
            with (
                client(url, timeout=30) as http,
                http.stream("GET", "/v1/events", params=query, headers=headers) as answer,
            ):
                answer.raise_for_status()
                for event in reader.read(answer):
                    yield event.data
        except httpx.HTTPError:
            time.sleep(RECONNECT_S)
