"""A configuration as one value: what was read from files at once, under a number, and how the last reading
ended.

It lies in the bucket `stoker_catalog` under the key `revision.current`, beside a copy of each of its parts
under a key of its own, for services of the version before and for people.
"""

import msgspec

from stoker.schemas.ranges import Count, Moment


class Revision(msgspec.Struct, frozen=True):
    """parts: by their keys in the bucket, each as it is stored there. at: seconds since 1970, when it was
    made."""

    number: Count
    at: Moment
    parts: dict[str, msgspec.Raw]


class RevisionHead(msgspec.Struct, frozen=True):
    """A revision without its parts. number: 0 before there is any; it grows by one with every change."""

    number: Count = 0
    at: Moment = 0.0


class ReloadFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the configuration was last not taken. line: 0 where none is meant. field: its path in the file."""

    at: Moment
    gateway: str
    reason: str
    file: str = ""
    line: Count = 0
    field: str = ""


class ConfigurationState(msgspec.Struct, frozen=True):
    """The revision in use, and why the files as they are now are not it; None: they are."""

    revision: Count = 0
    at: Moment = 0.0
    failed: ReloadFailure | None = None
