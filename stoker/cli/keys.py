"""API keys: made, listed and revoked over NATS, by whoever may write the bucket."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from stoker.cli.app import Json, app, console, fail, print_json
from stoker.cli.on_bus import Data, with_bus
from stoker.schemas.keys import ROLES, ApiKey

group = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
app.add_typer(group, name="keys")


@group.command()
def create(
    name: str,
    data: Data = Path(".stoker"),
    json: Json = False,
    priority: Annotated[int, typer.Option(help="Of its jobs, -10 to 10.", min=-10, max=10)] = 0,
    per_minute: Annotated[int, typer.Option(help="Requests a minute; 0 = no limit.", min=0)] = 0,
    per_day: Annotated[int, typer.Option(help="Requests a day; 0 = no limit.", min=0)] = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="Tokens a minute; 0 = no limit.", min=0)] = 0,
    device_seconds: Annotated[float, typer.Option(help="Engines' seconds a day; 0 = no limit.", min=0)] = 0.0,
    concurrency: Annotated[int, typer.Option(help="Jobs under way at a time; 0 = no limit.", min=0)] = 0,
    weight: Annotated[
        float, typer.Option(help="Its share of the devices while others wait too.", min=0.01, max=100.0)
    ] = 1.0,
    role: Annotated[str, typer.Option(help=f"What it may do: {', '.join(ROLES)}.")] = "use",
    model: Annotated[list[str] | None, typer.Option(help="The only model it may use; repeatable.")] = None,
) -> None:
    """Make a key; its secret is shown once and never kept."""
    if role not in ROLES:
        fail(f"--role must be one of {', '.join(ROLES)}, not {role!r}", 2)
    from stoker.services.records import keys

    key_id, secret = keys.new_secret()
    key = ApiKey(
        id=key_id,
        name=name,
        sha256=keys.digest(secret),
        created_at=time.time(),
        priority=priority,
        weight=weight,
        requests_per_minute=per_minute,
        requests_per_day=per_day,
        concurrency=concurrency,
        tokens_per_minute=tokens_per_minute,
        device_seconds_per_day=device_seconds,
        models=tuple(model or ()),
        role=role,
    )
    with_bus("stoker keys", data, lambda bus: keys.put_key(bus, key), f"made the key {key_id} ({name}, {role})")
    if json:
        print_json({"id": key_id, "key": secret})
    else:
        console.print(f"{secret}\n[dim]id {key_id}; this is shown once[/]", highlight=False, soft_wrap=True)


@group.command("list")
def list_keys(data: Data = Path(".stoker"), json: Json = False) -> None:
    """Every key, without its secret."""
    from stoker.services.records import keys

    found = with_bus("stoker keys", data, keys.list_keys)
    if json:
        print_json([{"id": key.id, "name": key.name, "revoked": bool(key.revoked_at)} for key in found])
        return
    table = Table()
    for column in ("id", "name", "role", "made", "per minute", "per day", "at a time", "models", ""):
        table.add_column(column)
    for key in found:
        limits = (key.requests_per_minute, key.requests_per_day, key.concurrency)
        made = time.strftime("%Y-%m-%d", time.localtime(key.created_at))
        state = "[red]revoked[/]" if key.revoked_at else ""
        shown = [str(limit or "-") for limit in limits]
        table.add_row(key.id, key.name, key.role, made, *shown, ", ".join(key.models) or "any", state)
    console.print(table)


@group.command()
def revoke(key_id: str, data: Data = Path(".stoker")) -> None:
    """Make a key useless, at once and everywhere."""
    from stoker.services.records import keys

    revoked = with_bus(
        "stoker keys",
        data,
        lambda bus: keys.revoke_key(bus, key_id, time.time()),
        f"revoked the key {key_id}",
    )
    if revoked is None:
        fail(f"there is no key {key_id!r}; `stoker keys list` shows them")
    console.print(f"{key_id} is revoked")
