"""The bucket `stoker_replicas` as one leader writes it, and what keeps an earlier leader from writing it.

Theory. A lease tells an autoscaler when to stop trusting itself; it cannot tell the bucket. So every write
names the last sequence of the bucket's stream that this leader knows, and the server takes it only if nothing
was written since. A leader begins with such a write of its own (`take_over`): from then on every write of an
earlier leader, of a record that is there or of a new one, is refused (`Conflict`), and what the new leader
reads is complete. As a launch or stop is ordered only after its record was taken, an earlier leader orders
nothing more.

A write whose answer never came may have taken effect or not: the sequence is not known any more, so the leader
gives up and begins again (`BusError`).
"""

from stoker.schemas import wire
from stoker.schemas.fleet import ModelReplicas
from stoker.schemas.subjects import REPLICAS_BUCKET, to_token
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict, named
from stoker.services.process.logs import get_logger

log = get_logger("autoscaler")

FENCE_KEY = "leader.fence"
"""Not the token of any model: those have no dots. It never has a value, so nobody who reads along sees it."""
TAKE_OVER_ATTEMPTS = 20
"""How often an earlier leader may write between our look at the bucket and our first write."""
_REMOVED = {"KV-Operation": "DEL"}


class ReplicaRecords:
    """Call `take_over` before anything else."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._sequence = 0

    async def take_over(self) -> None:
        """Refuse the writes of every earlier leader from now on. Raises BusError."""
        for _ in range(TAKE_OVER_ATTEMPTS):
            with named("looking at the bucket of replicas"):
                info = await self._bus.jetstream.stream_info(f"KV_{REPLICAS_BUCKET}")
            self._sequence = info.state.last_seq
            try:
                await self._write(FENCE_KEY, b"", _REMOVED)
                return
            except Conflict:
                log.info("records.written_meanwhile", by="an earlier leader")
        raise Conflict("an earlier autoscaler goes on writing records")

    async def read(self) -> list[ModelReplicas]:
        """Every record that can be read, in one listing of the bucket. Raises BusError."""
        bucket = await open_bucket(self._bus, REPLICAS_BUCKET)
        records = [_record(one.key, one.value) for one in await bucket.changes() if one.value]
        return [record for record in records if record is not None]

    async def write(self, record: ModelReplicas) -> None:
        """Raises Conflict when this leader leads no longer, BusError."""
        await self._write(to_token(record.model), wire.encode(record))

    async def remove(self, model: str) -> None:
        """Raises Conflict when this leader leads no longer, BusError."""
        await self._write(to_token(model), b"", _REMOVED)

    async def _write(self, key: str, value: bytes, headers: dict[str, str] | None = None) -> None:
        expected = {"Nats-Expected-Last-Sequence": str(self._sequence), **(headers or {})}
        subject = f"$KV.{REPLICAS_BUCKET}.{key}"
        self._sequence = (await self._bus.publish_stored(subject, value, headers=expected)).seq


def _record(key: str, value: bytes) -> ModelReplicas | None:
    """What is recorded under a key; None where it is no record of that model, and said so."""
    try:
        record: ModelReplicas = wire.decode(ModelReplicas, value)
    except wire.UnreadableMessage as error:
        log.warning("record.unreadable", key=key, error=str(error))
        return None
    if to_token(record.model) != key:  # removing it would remove another, or could not be said at all
        log.warning("record.unreadable", key=key, error="it is a record of another model")
        return None
    return record
