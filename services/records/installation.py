"""Making an installation: its streams and buckets, and the key of its seals.

Done by who may make streams: `stoker up` on its own server, elsewhere `stoker install-streams`, once and
after every upgrade.
"""

from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.records.seal_key import make_key


async def install(bus: Bus) -> None:
    """Create or upgrade everything. Raises CannotConnect when JetStream is not ready, BusError."""
    await make_key(bus, is_new=await declare(bus))
