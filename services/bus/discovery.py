"""Service discovery: every service registers as a NATS micro service.

`nats micro ls` and a request to `$SRV.PING` show the fleet; `$SRV.STATS` counts its work.
"""

from nats.micro import Service, add_service
from nats.micro.service import ServiceConfig

from stoker.services.bus.connection import Bus

VERSION = "0.1.0"


async def register(bus: Bus, service: str, description: str, metadata: dict[str, str]) -> Service:
    """Announce this process as one instance of `service` (gateway, scheduler, …)."""
    return await add_service(
        bus.client,
        ServiceConfig(name=f"stoker-{service}", version=VERSION, description=description, metadata=metadata),
    )
