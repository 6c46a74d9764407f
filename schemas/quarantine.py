"""A message that could not be handled."""

from typing import Literal

import msgspec

from stoker.schemas.ranges import Moment

Source = Literal["job", "webhook"]


class Quarantined(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message as it was, and why it was put aside. job: its id, where that is known. is_cut: without its
    end.
    """

    source: Source
    subject: str
    payload: bytes
    headers: dict[str, str]
    reason: str
    at: Moment
    job: str = ""
    is_cut: bool = False
