"""What a service says of what it answers: to `nats micro info` and `nats micro stats`."""

import json
from typing import Any

import jsonschema
from nats.aio.msg import Msg

from stoker.schemas.channels import ENDPOINTS
from stoker.services.bus.connection import Bus
from stoker.services.bus.discovery import metadata_of, register
from tests.contract.conftest import Connect


async def told(bus: Bus, verb: str) -> Any:
    answer = await bus.client.request(f"$SRV.{verb}.stoker-worker", timeout=2)
    return json.loads(answer.data)


async def test_an_endpoint_is_told_of_while_it_is_listened_to_and_its_counts_go_on(connected: Connect) -> None:
    async with connected() as bus:
        await register(bus, "worker", "runs jobs", {"worker": "w one"})
        assert (await told(bus, "INFO"))["endpoints"] == []
        ping = bus.endpoints.of("worker_ping", worker="w one")

        def answer(message: Msg) -> str:
            if not message.data:
                raise ValueError
            bus.tell(message.reply, {"ok": True})
            return "" if message.data == b"well" else "not well"

        async with bus.answering({ping: answer}):
            [endpoint] = (await told(bus, "INFO"))["endpoints"]
            assert endpoint["subject"] == "stoker.worker.w=20one.ping"
            assert endpoint["queue_group"] == ""
            await bus.client.request(endpoint["subject"], b"well", timeout=2)
            await bus.client.request(endpoint["subject"], b"ill", timeout=2)
            [counted] = (await told(bus, "STATS"))["endpoints"]
            assert (counted["num_requests"], counted["num_errors"]) == (2, 1)
            assert counted["last_error"] == "not well"
            assert counted["processing_time"] > 0
            assert counted["average_processing_time"] == counted["processing_time"] // 2
            bus.post(endpoint["subject"], b"")
            await bus.client.flush()
        assert (await told(bus, "STATS"))["endpoints"] == []
        assert bus.endpoints.of("worker_ping", worker="w one") is ping
        assert (ping.requests, ping.errors, ping.error) == (3, 2, "ValueError")


def test_every_schema_of_an_endpoint_is_one_or_names_where_it_is() -> None:
    for channel in ENDPOINTS.values():
        metadata = metadata_of(channel)
        assert all(isinstance(value, str) for value in metadata.values())
        for side, value in metadata.items():
            if side.endswith("_schema"):
                jsonschema.Draft202012Validator.check_schema(json.loads(value))
            elif side.endswith("_schema_ref"):
                assert value.startswith("stoker schema asyncapi: #/components/messages/" + channel.name)
        assert any(name.startswith("response_schema") for name in metadata)
    size = sum(len(value) for one in ENDPOINTS.values() for value in metadata_of(one).values())
    assert size < 60_000, "everything that one process answers is told in one message"
