"""What could not be handled: looking at it, sending it again, discarding it. For operators, over NATS."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from stoker.cli.app import Json, app, console, fail, print_json
from stoker.cli.on_bus import Data, with_bus

if TYPE_CHECKING:
    from stoker.schemas.quarantine import Quarantined
    from stoker.services.bus.connection import Bus

group = typer.Typer(no_args_is_help=True, help="What could not be handled, and was put aside.")
app.add_typer(group, name="quarantine")
PROGRAM = "stoker quarantine"
HERE = Path(".stoker")


async def _find(bus: "Bus", number: int) -> "Quarantined":
    from stoker.services.records import quarantine

    found = await quarantine.get_quarantined(bus, number)
    if found is None:
        fail(f"the quarantine has no {number}; `stoker quarantine list` shows what it has")
    return found


@group.command("list")
def list_all(data: Data = HERE, json: Json = False) -> None:
    """Everything that was put aside, the oldest first."""
    from stoker.services.records import quarantine

    found = with_bus(PROGRAM, data, quarantine.list_quarantined)
    if json:
        print_json([{"number": number, "source": one.source, "job": one.job, "at": one.at, "reason": one.reason}
                    for number, one in found])  # fmt: skip
        return
    table = Table()
    for column in ("number", "source", "job", "when", "reason"):
        table.add_column(column)
    for number, one in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
        table.add_row(str(number), one.source, escape(one.job), when, escape(one.reason))
    console.print(table)


@group.command()
def show(number: int, data: Data = HERE) -> None:
    """One message with all that is known of it, as JSON."""
    from stoker.services.records import quarantine

    print_json(quarantine.shown(with_bus(PROGRAM, data, lambda bus: _find(bus, number))))


@group.command()
def retry(number: int, data: Data = HERE) -> None:
    """Send a message again as it was: after what was wrong has been mended."""
    from stoker.services.bus.errors import BusError
    from stoker.services.records import quarantine

    async def send(bus: "Bus") -> None:
        item = await _find(bus, number)
        if item.is_cut:
            fail(f"{number} was too large to be kept whole; it can only be discarded")
        try:
            await quarantine.send_again(bus, number, item)
        except BusError as error:
            fail(str(error))

    with_bus(PROGRAM, data, send, f"sent {number} of the quarantine again")
    console.print(f"{number} was sent again")


@group.command()
def discard(number: int, data: Data = HERE) -> None:
    """Take a message out for good."""
    from stoker.services.records import quarantine

    async def remove(bus: "Bus") -> None:
        await _find(bus, number)
        await quarantine.discard(bus, number)

    with_bus(PROGRAM, data, remove, f"discarded {number} of the quarantine")
    console.print(f"{number} is gone")
