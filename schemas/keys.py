"""API keys as they are kept: the hash only, and what its holder may do."""

from typing import Literal

import msgspec

from stoker.schemas.ranges import Weight

Role = Literal["use", "operate", "admin"]
"""use: its own jobs. operate: everybody's jobs, the fleet, events, metrics, and which mode is loaded. admin:
the configuration too. Each may do what those before it may."""
ROLES: tuple[Role, ...] = ("use", "operate", "admin")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key, under its id in the bucket `stoker_keys`. A field of a later version may be a limit: such a key
    opens nothing.

    sha256: of the secret, in hex. priority: of jobs that do not say one. requests_per_minute,
    tokens_per_minute, requests_per_day, device_seconds_per_day (of engines' time) and concurrency (jobs from
    acceptance to their end): 0 = no limit; all gateways count together. models: the only ones
    that it may use, none named = any. weight: its share of the devices beside others that wait. Times are
    seconds since 1970.
    """

    id: str
    name: str
    sha256: str
    created_at: float
    priority: int = 0
    requests_per_minute: int = 0
    requests_per_day: int = 0
    concurrency: int = 0
    models: tuple[str, ...] = ()
    role: Role = "use"
    tokens_per_minute: int = 0
    device_seconds_per_day: float = 0.0
    weight: Weight = 1.0
    revoked_at: float = 0.0
