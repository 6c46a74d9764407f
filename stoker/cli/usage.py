"""`stoker usage`: what keys have used, by day and model."""

from typing import Annotated, Any

import typer

from stoker.cli.app import FOUND, Json, Url, app, call, call_text, console, fail, print_json


@app.command()
def usage(
    url: Url = FOUND,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    since: Annotated[str, typer.Option(help="First day (UTC), as 2026-11-30.")] = "",
    until: Annotated[str, typer.Option(help="Last day.")] = "",
    key: Annotated[str, typer.Option(help="Only this key, by its id.")] = "",
) -> None:
    """What keys have used, by day and model."""
    if csv and json:
        fail("give --csv or --json, not both", 2)
    query = {"since": since, "until": until, "key": key}
    if csv:
        typer.echo(call_text("GET", url, "/v1/usage", params=query | {"format": "csv"}), nl=False)
        return
    found = call("GET", url, "/v1/usage", params=query)
    if json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("day", "key", "model", show_footer=bool(found["rows"]))
    total = found["total"]
    columns = ("jobs", "failed", "prompt_tokens", "answer_tokens", "device_s")
    for name in columns:
        table.add_column(name.replace("_", " "), f"{total.get(name, 0):g}", justify="right")
    for row in found["rows"]:
        who = row["name"] or row["key"] or "-"
        table.add_row(row["day"], escape(who), escape(row["model"]), *(f"{row[name]:g}" for name in columns))
    console.print(table)
