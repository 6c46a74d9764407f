"""What keys use, as gateways tell each other."""

import msgspec

from stoker.schemas.ranges import Count, Seconds


class KeyUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a key has used. began, ended: a job. gateway: who says so."""

    key: str
    requests: Count = 0
    tokens: Count = 0
    device_s: Seconds = 0.0
    began: str = ""
    ended: str = ""
    gateway: str = ""
