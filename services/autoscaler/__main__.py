"""`python -m stoker.services.autoscaler`, `stoker autoscaler`: one autoscaler process; of several one leads."""

import stoker.services.bus  # isort: skip  # noqa: F401  # nats-py without aiohttp

import asyncio
from collections.abc import Sequence
from pathlib import Path

from anyio import move_on_after
from nats.nuid import NUID

from stoker.schemas.subjects import CATALOG_BUCKET, LEASES_BUCKET, REPLICAS_BUCKET, of_bucket
from stoker.services.autoscaler.service import STOP_ALL_TIMEOUT_S, AutoscalerService, LeadsNoLonger
from stoker.services.autoscaler.settings import Settings
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.discovery import register
from stoker.services.bus.errors import BusError
from stoker.services.bus.leases import hold
from stoker.services.bus.streams import wait_for_streams
from stoker.services.process.logs import get_logger
from stoker.services.process.running import exit_with, run_service
from stoker.services.process.settings import BusSettings, read_settings, to_environment
from stoker.services.process.tasks import until
from stoker.services.process.telemetry import serve_metrics

log = get_logger("autoscaler")

ROLE = "autoscaler"
LEAD_AGAIN_S = 0.2
"""A leader that cannot begin tries again after this."""
STOP_TIMEOUT_S = STOP_ALL_TIMEOUT_S + 5.0


def worker_environment(settings: Settings) -> dict[str, str]:
    """How launched workers reach NATS: as this process does, or as users of their own."""
    found = to_environment(settings, BusSettings)
    own = {
        "STOKER_NATS": settings.worker_nats,
        "STOKER_NATS_USER": settings.worker_nats_user,
        "STOKER_NATS_PASSWORD": settings.worker_nats_password,
    }
    return found | {name: value for name, value in own.items() if value}


async def _lead(bus: Bus, settings: Settings, stopping: asyncio.Event, leading: asyncio.Event) -> None:
    """Wait for the lease and lead while it is held, again and again until `stopping`."""
    identity = NUID().next().decode()[-8:]
    await register(bus, "autoscaler", "decides how many replicas of each spec run", {"id": identity})
    folder = Path(settings.data) / "replicas"
    environment = worker_environment(settings)
    record = Path(settings.record) if settings.record else None
    while not stopping.is_set():
        async with hold(bus, ROLE, identity) as lease:
            leading.set()
            service = AutoscalerService(bus, lease, settings.cluster, folder, environment, record)
            try:
                await service.serve(stopping)
                if stopping.is_set() and settings.stop_replicas:
                    await service.stop_all()
            except (BusError, LeadsNoLonger) as error:
                log.warning("leadership.given_up", error=str(error))
            finally:
                leading.clear()
                await service.close()
        await asyncio.sleep(LEAD_AGAIN_S)


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_host, settings.metrics_port)
    async with open_bus(settings, "stoker-autoscaler", role="autoscaler", stopping=stopping) as bus:
        await wait_for_streams(bus, stopping, *map(of_bucket, (CATALOG_BUCKET, REPLICAS_BUCKET, LEASES_BUCKET)))
        leading = asyncio.Event()
        ended = asyncio.Event()

        async def lead() -> None:
            await _lead(bus, settings, stopping, leading)
            ended.set()

        async def wait_to_stop() -> None:
            await stopping.wait()
            if leading.is_set():  # it ends by itself; one that only waits for the lease does not
                with move_on_after(STOP_TIMEOUT_S):
                    await ended.wait()

        await until(asyncio.Event(), lead, wait_to_stop)


def run(arguments: Sequence[str]) -> int:
    return run_service("autoscaler", read_settings(Settings, "stoker autoscaler", arguments), main)


if __name__ == "__main__":
    exit_with(run)
