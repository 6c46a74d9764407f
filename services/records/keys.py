"""The bucket `stoker_keys`: making keys, revoking them, watching them. Secrets are never stored."""

import hashlib
import secrets
from collections.abc import Callable

import msgspec

from stoker.schemas import wire
from stoker.schemas.keys import ApiKey
from stoker.schemas.subjects import KEYS_BUCKET, to_token
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.watching import watch_bucket
from stoker.services.process.logs import get_logger

log = get_logger("keys")

PREFIX = "sk-stoker-"
SECRET_BYTES = 32
ID_BYTES = 4


def digest(secret: str) -> str:
    """What is kept of a secret. It is 32 random bytes, so a plain hash is as good as a slow one."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> tuple[str, str]:
    """A key's id and its secret."""
    return secrets.token_hex(ID_BYTES), PREFIX + secrets.token_urlsafe(SECRET_BYTES)


async def put_key(bus: Bus, key: ApiKey) -> None:
    bucket = await open_bucket(bus, KEYS_BUCKET)
    await bucket.put(to_token(key.id), wire.encode(key))


async def read_key(bus: Bus, key_id: str) -> ApiKey | None:
    """A key that is valid; None when there is none. Raises BusError, wire.UnreadableMessage."""
    bucket = await open_bucket(bus, KEYS_BUCKET)
    entry = await bucket.get(to_token(key_id))
    if entry is None or not entry.value:
        return None
    key: ApiKey = wire.decode(ApiKey, entry.value)
    return None if key.revoked_at else key


async def list_keys(bus: Bus) -> list[ApiKey]:
    """Every key, the oldest first. Raises BusError."""
    bucket = await open_bucket(bus, KEYS_BUCKET)
    found: list[ApiKey] = [wire.decode(ApiKey, one.value) for one in await bucket.changes() if one.value]
    return sorted(found, key=lambda key: key.created_at)


async def revoke_key(bus: Bus, key_id: str, now: float) -> ApiKey | None:
    """The key, which is of no use any more; None when there is none. Raises BusError."""
    bucket = await open_bucket(bus, KEYS_BUCKET)
    entry = await bucket.get(to_token(key_id))
    if entry is None:
        return None
    key: ApiKey = wire.decode(ApiKey, entry.value)
    revoked = msgspec.structs.replace(key, revoked_at=now)
    await put_key(bus, revoked)
    return revoked


async def watch_keys(bus: Bus, changed: Callable[[str, ApiKey | None], None]) -> None:
    """Call `changed` with every key, and every change of one, until cancelled."""

    def take(name: str, value: bytes) -> None:
        try:
            changed(name, wire.decode(ApiKey, value) if value else None)
        except wire.UnreadableMessage as error:
            log.warning("key.unreadable", key=name, error=str(error))

    await watch_bucket(bus, KEYS_BUCKET, take)
