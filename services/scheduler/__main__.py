"""`python -m services.scheduler`, `stoker scheduler`: one scheduler process."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from nats.nuid import NUID

from services.bus.connection import open_bus
from services.bus.streams import declare
from services.process.running import exit_with, run_service
from services.process.settings import BusSettings, read_settings
from services.process.telemetry import serve_metrics
from services.scheduler.service import serve


class Settings(BusSettings, frozen=True, kw_only=True):
    """The scheduler: decides which worker runs each job."""

    record: Annotated[
        str,
        Meta(description="file for a recording of every decision, with prompts; see `stoker replay`"),
    ] = ""


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_port)
    async with open_bus(settings, "stoker-scheduler", stopping=stopping) as bus:
        await declare(bus)
        record = Path(settings.record) if settings.record else None
        await serve(bus, NUID().next().decode()[-8:], stopping, record)


def run(arguments: Sequence[str]) -> int:
    return run_service("scheduler", read_settings(Settings, "stoker scheduler", arguments), main)


if __name__ == "__main__":
    exit_with(run(sys.argv[1:]))
