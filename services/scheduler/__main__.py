"""`python -m stoker.services.scheduler`, `stoker scheduler`: one scheduler process."""

import stoker.services.bus  # isort: skip  # noqa: F401  # nats-py without aiohttp

import asyncio
from collections.abc import Sequence
from pathlib import Path

from nats.nuid import NUID

from stoker.schemas import subjects
from stoker.services.bus.connection import open_bus
from stoker.services.bus.streams import wait_for_streams
from stoker.services.process.running import exit_with, run_service
from stoker.services.process.settings import read_settings
from stoker.services.process.telemetry import serve_metrics
from stoker.services.records.seal_key import knowing_seals
from stoker.services.scheduler.service import serve
from stoker.services.scheduler.settings import Settings

STREAMS = (
    subjects.JOBS_STREAM,
    subjects.RESULTS_STREAM,
    subjects.WEBHOOKS_STREAM,
    *map(subjects.of_bucket, (subjects.CATALOG_BUCKET, subjects.LEASES_BUCKET, subjects.SECRETS_BUCKET)),
)
"""What it uses; others that it writes into (events) may come later."""


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_host, settings.metrics_port)
    async with open_bus(settings, "stoker-scheduler", role="scheduler", stopping=stopping) as bus:
        await wait_for_streams(bus, stopping, *STREAMS)
        record = Path(settings.record) if settings.record else None
        async with knowing_seals(bus):
            await serve(bus, NUID().next().decode()[-8:], stopping, record)


def run(arguments: Sequence[str]) -> int:
    return run_service("scheduler", read_settings(Settings, "stoker scheduler", arguments), main)


if __name__ == "__main__":
    exit_with(run)
