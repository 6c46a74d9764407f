"""Commands that speak NATS themselves: to a running `stoker up` by its --data, or to the server of
STOKER_NATS.
"""

import asyncio
import getpass
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stoker.cli.app import fail
from stoker.servers import DATA_VARIABLE

if TYPE_CHECKING:
    from stoker.services.bus.connection import Bus

T = TypeVar("T")
CONNECT_S = 3.0
Data = Annotated[
    Path, typer.Option(envvar=DATA_VARIABLE, help="The --data of a running `stoker up`; or set STOKER_NATS.")
]


def with_bus(program: str, data: Path, work: "Callable[[Bus], Awaitable[T]]", action: str = "") -> T:
    """Do something on the bus of a running system. Ends the program where there is none.

    action: what of it is to be kept in the audit trail, once it is done.
    """
    from stoker.schemas.subjects import KEYS_BUCKET, of_bucket
    from stoker.services.bus.connection import open_bus
    from stoker.services.bus.streams import wait_for_streams
    from stoker.services.process.embedded import URL_FILE
    from stoker.services.process.running import CannotStart
    from stoker.services.process.settings import BusSettings, read_settings
    from stoker.services.records.platform_events import note_action

    settings = read_settings(BusSettings, program, [])
    address = data / URL_FILE
    if settings.nats == BusSettings().nats and address.exists():
        settings = BusSettings(nats=address.read_text().strip())

    async def run() -> T:
        async with open_bus(settings, program.replace(" ", "-"), CONNECT_S) as bus:
            await wait_for_streams(bus, asyncio.Event(), of_bucket(KEYS_BUCKET))
            found = await work(bus)
            if action:
                note_action(bus, f"{settings.nats_user or user()}@{platform.node()}", action)
            return found

    try:
        return asyncio.run(run())
    except CannotStart as error:
        fail(str(error), 2)


def user() -> str:
    """Who runs this command; by number, where a container's user is in no list."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
