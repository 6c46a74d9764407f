"""`python -m services.autoscaler`, `stoker autoscaler`: one autoscaler process; of several one is in office."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import nats.errors
from msgspec import Meta
from nats.js.errors import Error as JetStreamError
from nats.nuid import NUID

from services.autoscaler.service import STOP_ALL_TIMEOUT_S, AutoscalerService
from services.bus.connection import Bus, connect
from services.bus.discovery import register
from services.bus.leases import hold
from services.bus.streams import declare
from services.process.logs import get_logger
from services.process.running import cancel_all, exit_with, run_service
from services.process.settings import BusSettings, read_settings, to_environment
from services.process.telemetry import serve_metrics

log = get_logger("autoscaler")

OFFICE = "autoscaler"
STOP_TIMEOUT_S = STOP_ALL_TIMEOUT_S + 5.0


class Settings(BusSettings, frozen=True, kw_only=True):
    """The autoscaler: decides how many replicas of each spec run, and has them launched."""

    cluster: Annotated[str, Meta(description="name under which launchers find our workers again")] = "stoker"
    data: Annotated[str, Meta(description="folder for the logs of workers that are processes")] = ".stoker"
    worker_nats: Annotated[str, Meta(description="NATS URLs of launched workers; default: the same")] = ""
    worker_nats_user: Annotated[str, Meta(description="NATS user of launched workers")] = ""
    worker_nats_password: Annotated[str, Meta(description="its password")] = ""
    stop_replicas: Annotated[bool, Meta(description="stop all launched workers at a clean stop")] = False


def worker_environment(settings: Settings) -> dict[str, str]:
    """How launched workers reach NATS: as this process does, or as users of their own."""
    found = to_environment(settings, BusSettings)
    own = {
        "STOKER_NATS": settings.worker_nats,
        "STOKER_NATS_USER": settings.worker_nats_user,
        "STOKER_NATS_PASSWORD": settings.worker_nats_password,
    }
    return found | {name: value for name, value in own.items() if value}


async def _terms(bus: Bus, settings: Settings, stopping: asyncio.Event, in_office: asyncio.Event) -> None:
    """Stand for office again and again until `stopping`."""
    identity = NUID().next().decode()[-8:]
    await register(bus, "autoscaler", "decides how many replicas of each spec run", {"id": identity})
    folder = Path(settings.data) / "replicas"
    environment = worker_environment(settings)
    while not stopping.is_set():
        async with hold(bus, OFFICE, identity) as lease:
            in_office.set()
            service = AutoscalerService(bus, lease, settings.cluster, folder, environment)
            try:
                await service.serve(stopping)
                if stopping.is_set() and settings.stop_replicas:
                    await service.stop_all()
            except (nats.errors.Error, JetStreamError, TimeoutError) as error:
                log.warning("office.left", error=str(error) or type(error).__name__)
            finally:
                in_office.clear()
                await service.close()


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_port)
    bus = await connect(settings, "stoker-autoscaler")
    try:
        await declare(bus)
        in_office = asyncio.Event()
        terms = asyncio.create_task(_terms(bus, settings, stopping, in_office))
        asked = asyncio.create_task(stopping.wait())
        await asyncio.wait([terms, asked], return_when=asyncio.FIRST_COMPLETED)
        if in_office.is_set():  # it ends by itself; one that only waits for the office does not
            await asyncio.wait([terms], timeout=STOP_TIMEOUT_S)
        await cancel_all(asked, terms)
        if not stopping.is_set():
            terms.result()
    finally:
        await bus.close()


def run(arguments: Sequence[str]) -> int:
    return run_service("autoscaler", read_settings(Settings, "stoker autoscaler", arguments), main)


if __name__ == "__main__":
    exit_with(run(sys.argv[1:]))
