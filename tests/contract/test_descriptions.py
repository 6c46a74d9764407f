"""Whoever looks with the `nats` command is told what each stream, bucket and consumer is for."""

from stoker.services.bus.descriptions import BUCKETS, STREAMS
from stoker.services.bus.streams import declare
from tests.contract.conftest import Connect


async def test_every_stream_and_bucket_says_what_it_is_for(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        found = {one.config.name: one.config.description for one in await bus.jetstream.streams_info()}
        assert found == STREAMS | {f"KV_{name}": text for name, text in BUCKETS.items()}


async def test_what_an_earlier_version_has_made_is_described_too(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        for name in ("STOKER_EVENTS", "KV_stoker_keys"):
            known = (await bus.jetstream.stream_info(name)).config
            await bus.jetstream.update_stream(known.evolve(description=""))
        await declare(bus)
        assert all(one.config.description for one in await bus.jetstream.streams_info())
