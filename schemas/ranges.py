"""What numbers in messages may be. One outside is not believed: its message cannot be read."""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""Bytes, jobs, places in a stream: as far as every reader of JSON counts exactly."""
Term = Annotated[int, Meta(ge=0, lt=2**31)]
"""Of a leader: the place of its lease in its bucket, which a renewal each second brings there in 68 years.
One that no leader can have makes no worker refuse the true one.
"""
Slots = Annotated[int, Meta(ge=0, le=100_000)]
Batch = Annotated[int, Meta(ge=1, le=100_000)]
"""Jobs that run as one."""
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
"""A length of time, up to thirty years."""
Window = Annotated[float, Meta(ge=0, le=5)]
"""Seconds for which text may wait for more."""
Moment = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds since 1970."""
Amount = Annotated[float, Meta(ge=0, le=1e15)]
"""Units of work, jobs a second."""
Weight = Annotated[float, Meta(ge=0.01, le=100)]
"""Of a tenant: one of twice the weight gets twice the device while both wait."""
