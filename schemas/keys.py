"""API keys as they are kept: the hash only, and what its holder may do."""

import msgspec


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key, under its id in the bucket `stoker_keys`. A field of a later version may be a limit: such a key
    opens nothing.

    sha256: of the secret, in hex. priority: of jobs that do not say one. requests_per_minute, concurrency
    (requests at a time) and requests_per_day: 0 = no limit, counted by each gateway. models: the only ones
    that it may use, none named = any. Times are seconds since 1970.
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
    revoked_at: float = 0.0
