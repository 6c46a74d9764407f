"""Service discovery: every service registers as a NATS micro service.

`nats micro ls` and a request to `$SRV.PING` show the fleet, `nats micro info` (`$SRV.INFO`) what each instance
answers, with the schemas of questions and answers, and `nats micro stats` (`$SRV.STATS`) how often it has.
"""

from functools import cache
from typing import Any

import msgspec
from nats.micro import Service
from nats.micro.service import EndpointInfo, EndpointStats, ServiceConfig, ServiceInfo, ServiceStats

from stoker.schemas.channels import Bytes, Channel, Nothing
from stoker.services.bus.connection import Bus
from stoker.services.bus.endpoints import Endpoints

VERSION = "0.1.0"
MAX_SCHEMA_BYTES = 3_000
"""A larger schema is named instead: all endpoints of a service are told in one message."""
DOCUMENT = "stoker schema asyncapi"
"""Prints the document in which schemas are found by name."""


class Announced(Service):  # type: ignore[misc]  # nats-py is not typed strictly
    """A micro service whose endpoints listen by themselves, and count by themselves."""

    def __init__(self, bus: Bus, config: ServiceConfig) -> None:
        super().__init__(bus.client, config)
        self._own: Endpoints = bus.endpoints

    def info(self) -> ServiceInfo:
        info = super().info()
        info.endpoints = [
            EndpointInfo(one.channel.name, one.subject, _queue(one.channel), metadata_of(one.channel))
            for one in self._own.announced
        ]
        return info

    def stats(self) -> ServiceStats:
        stats = super().stats()
        stats.endpoints = [
            EndpointStats(
                name=one.channel.name,
                subject=one.subject,
                queue_group=_queue(one.channel),
                num_requests=one.requests,
                num_errors=one.errors,
                last_error=one.error,
                processing_time=one.busy_ns,
                average_processing_time=one.busy_ns // max(one.requests, 1),
            )
            for one in self._own.announced
        ]
        return stats


async def register(bus: Bus, service: str, description: str, metadata: dict[str, str]) -> Service:
    """Announce this process as one instance of `service` (gateway, scheduler, …)."""
    name = f"stoker-{service}"
    config = ServiceConfig(name=name, version=VERSION, description=description, metadata=metadata)
    announced = Announced(bus, config)
    await announced.start()
    return announced


def _queue(channel: Channel) -> str:
    return channel.answered.queue if channel.answered is not None else ""


@cache
def metadata_of(channel: Channel) -> dict[str, str]:
    """What an endpoint says of itself: what it does, and the JSON Schemas of its questions and answers."""
    told = {"description": channel.summary} | _schema("request", channel.name, channel.kind)
    if channel.answered is None:
        return told
    return told | _schema("response", channel.answer_name, channel.answered.kind)


def _schema(side: str, message: str, kind: Any) -> dict[str, str]:
    """The schema of a message; where it is large, the message's name in the document of the bus."""
    if kind in (Nothing, Bytes):
        return {}
    text = msgspec.json.encode(msgspec.json.schema(kind)).decode()
    if len(text) <= MAX_SCHEMA_BYTES:
        return {f"{side}_schema": text}
    return {f"{side}_schema_ref": f"{DOCUMENT}: #/components/messages/{message}"}
