"""`stoker record`: what a running system is asked. For operators, over NATS."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.app import app, errors
from stoker.cli.on_bus import Data, with_bus

if TYPE_CHECKING:
    from stoker.services.bus.connection import Bus

PROGRAM = "stoker record"
HERE = Path(".stoker")


@app.command()
def record(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 60.0, data: Data = HERE
) -> None:
    """Write down what a running system is asked, for `stoker simulate`.

    Without prompts and names; give it to --trace.
    """
    from stoker.schemas.subjects import ANY
    from stoker.simulation.tracer import Tracer

    tracer = Tracer()

    async def listen(bus: "Bus") -> None:
        async with bus.listening((bus.subjects.every("jobs", ANY), tracer.heard)):
            await asyncio.sleep(seconds)

    with_bus(PROGRAM, data, listen)
    errors.print(f"{tracer.count} requests", style="dim")
