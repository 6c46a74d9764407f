"""`python -m services.autoscaler`, `stoker autoscaler`: one autoscaler process."""

import asyncio
import sys
from collections.abc import Sequence

from nats.nuid import NUID

from services.autoscaler.service import serve
from services.bus.connection import connect
from services.bus.running import exit_with, run_service
from services.bus.settings import BusSettings, read_settings
from services.bus.streams import declare
from services.bus.telemetry import serve_metrics


class Settings(BusSettings, frozen=True, kw_only=True):
    """The autoscaler: decides how many replicas of each spec run."""


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_port)
    bus = await connect(settings, "stoker-autoscaler")
    try:
        await declare(bus)
        await serve(bus, NUID().next().decode()[-8:], stopping)
    finally:
        await bus.close()


def run(arguments: Sequence[str]) -> int:
    return run_service("autoscaler", read_settings(Settings, "stoker autoscaler", arguments), main)


if __name__ == "__main__":
    exit_with(run(sys.argv[1:]))
