"""`python -m stoker.services.worker`, `stoker worker`: one worker process, with its runner beside it."""

import stoker.services.bus  # isort: skip  # noqa: F401  # nats-py without aiohttp

import asyncio
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.nuid import NUID

from stoker.schemas import wire
from stoker.schemas.heartbeats import Solicitation
from stoker.schemas.job_events import TextPace
from stoker.schemas.subjects import ANY, CATALOG_BUCKET, check_name, of_bucket
from stoker.schemas.workers import (
    Accepted,
    Assignment,
    Done,
    Heartbeat,
    JobCommand,
    ModelCommand,
    ReplayRequest,
    Revocation,
)
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.discovery import register
from stoker.services.bus.endpoints import Served
from stoker.services.bus.permissions import worker_role
from stoker.services.bus.quick_client import Handler
from stoker.services.bus.streams import wait_for_streams
from stoker.services.catalog import store
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.functions import read_project
from stoker.services.catalog.sizes import parse_size
from stoker.services.process.devices import find_device
from stoker.services.process.logs import get_logger
from stoker.services.process.running import exit_with, run_service
from stoker.services.process.settings import BadSetting, read_settings
from stoker.services.process.tasks import TaskOwner, until
from stoker.services.process.telemetry import serve_metrics
from stoker.services.process.tracing import trace_of
from stoker.services.worker.agent import Agent, Limits
from stoker.services.worker.engines.registry import HANDLERS_VARIABLE, installed
from stoker.services.worker.heartbeats import Identity
from stoker.services.worker.models.cache import ModelCache
from stoker.services.worker.settings import Settings

log = get_logger("worker")

CONNECTION_CHECK_S = 1.0


def parse_bytes(text: str, setting: str) -> int:
    """Bytes in a size such as 512MB, 2G or 1000000. Raises BadSetting."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise BadSetting(f"{setting}: {error}") from error


def chosen_engines(listed: str, handlers: str) -> dict[str, Any]:
    """The installed engines, or those of them that the setting names; synthetic only when named.

    Custom jobs are taken where handlers are allowed, and only those.
    """
    found = installed()
    if handlers:
        os.environ[HANDLERS_VARIABLE] = handlers  # the runner imports them, nobody else
        allowed = tuple(name.strip() for name in handlers.split(","))
        found["custom"] = msgspec.structs.replace(found["custom"], models=allowed)
        listed = f"{listed},custom" if listed else ""
    else:
        del found["custom"]
    if not listed:
        return {name: capability for name, capability in found.items() if name != "synthetic"}
    names = [name.strip() for name in listed.split(",")]
    missing = [name for name in names if name not in found]
    if missing:
        raise BadSetting(f"engines: {', '.join(missing)} not installed here; there are {', '.join(found)}")
    return {name: found[name] for name in names}


def _commands(bus: Bus, agent: Agent, stopping: asyncio.Event) -> dict[Served, Callable[[Msg], str]]:
    """The worker's commands, each with what answers it; every one is answered."""

    def answering(kind: Any, act: Callable[..., object]) -> Callable[[Msg], str]:
        def answer(message: Msg) -> str:
            problem = ""
            try:
                content = wire.decode(kind, message.data)
                result = act(content, trace_of(message)) if kind is Assignment else act(content)
            except wire.UnreadableMessage as error:
                log.warning("message.unreadable", subject=message.subject, error=str(error))
                problem = str(error)
                result = Done(ok=False, reason=problem)
            if not message.reply or result is None:
                return problem
            tell = partial(bus.tell, message.reply, result, is_urgent=False)
            if kind is Assignment and isinstance(result, Accepted):
                agent.accept(content.job.id, tell)
            else:
                tell()
            return problem

        return answer

    def load(command: ModelCommand) -> Done:
        agent.load(command.model, command.spec, command.evict)
        return Done(ok=True)

    def read(command: ModelCommand) -> Done:
        agent.read(command.model, command.spec)
        return Done(ok=True)

    def unload(command: ModelCommand) -> Done:
        reason = agent.loader.unload(command.model)
        return Done(ok=not reason, reason=reason)

    def drain(_: object) -> Done:
        stopping.set()
        return Done(ok=True)

    verbs: tuple[tuple[str, Any, Callable[..., object]], ...] = (
        ("assign", Assignment, agent.assign),
        ("cancel", JobCommand, lambda command: Done(ok=agent.cancel(command))),
        ("revoke", Revocation, lambda command: Done(ok=agent.revoke(command))),
        ("replay", ReplayRequest, agent.replay),
        ("load", ModelCommand, load),
        ("read", ModelCommand, read),
        ("unload", ModelCommand, unload),
        ("drain", object, drain),
        ("ping", object, lambda _: Done(ok=True)),
    )
    return {
        bus.endpoints.of(f"worker_{verb}", worker=agent.name): answering(kind, act) for verb, kind, act in verbs
    }


def _heard(bus: Bus, agent: Agent) -> tuple[tuple[str, Handler], ...]:
    """What is heard: that heartbeats are wanted, one under this worker's name, and the pace of a gateway."""

    def seen(message: Msg) -> None:
        try:
            agent.heartbeat_seen(wire.decode(Heartbeat, message.data))
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))

    def solicited(message: Msg) -> None:
        try:
            agent.heartbeats.solicited(wire.decode(Solicitation, message.data))
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))

    def paced(message: Msg) -> None:
        try:
            agent.paced(wire.decode(TextPace, message.data))
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))

    return (
        (bus.subjects.solicit(), solicited),
        (bus.subjects.solicit_one(agent.name), solicited),
        (bus.subjects.every("pace", ANY), paced),
        (bus.subjects.heartbeat(agent.name), seen),
    )


async def _give_up(bus: Bus, seconds: float, stopping: asyncio.Event) -> None:
    """Set `stopping` once NATS was out of reach for so long: nobody could ever stop this worker."""
    last_seen = time.monotonic()
    while seconds and time.monotonic() - last_seen < seconds:
        if bus.is_connected:
            last_seen = time.monotonic()
        await asyncio.sleep(CONNECTION_CHECK_S)
    if seconds:
        log.error("nats.out_of_reach", seconds=seconds)
        stopping.set()
    await asyncio.Event().wait()


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_host, settings.metrics_port)
    name = settings.name or f"{platform.node()}-{NUID().next().decode()[-6:].lower()}"
    check_name(name)
    device = find_device(settings.gpus)
    memory = parse_bytes(settings.memory, "memory") if settings.memory else device.memory_bytes
    cache = ModelCache(memory, parse_bytes(settings.ram, "ram"))
    connecting = open_bus(settings, f"stoker-worker-{name}", role=worker_role(name), stopping=stopping)
    async with connecting as bus, TaskOwner("worker") as tasks:
        await wait_for_streams(bus, stopping, of_bucket(CATALOG_BUCKET))
        identity = Identity(name, settings.profile, settings.spec, device.name, settings.pinned)
        limits = Limits(settings.runner_silent_s, settings.stop_grace_s)
        agent = Agent(bus, identity, cache, chosen_engines(settings.engines, settings.handlers), tasks, limits)
        await register(bus, "worker", "runs jobs on loaded models", {"worker": name, "device": device.name})
        for folder in filter(None, settings.functions.split(",")):
            await store.add(bus, await asyncio.to_thread(read_project, Path(folder)))
        agent.start()
        async with bus.answering(_commands(bus, agent, stopping)), bus.listening(*_heard(bus, agent)):
            bus.on_reconnect.append(agent.heartbeats.reconnected)
            log.info("worker.started", device=device.name, memory_mb=memory // 10**6, pid=os.getpid())

            async def drain() -> None:
                await until(asyncio.Event(), stopping.wait, agent.replaced.wait)
                await agent.drain(settings.drain_timeout_s if bus.is_connected else 0.0)

            await until(
                asyncio.Event(),
                partial(store.watch, bus, agent.model_changed),
                partial(_give_up, bus, settings.give_up_s, stopping),
                drain,
            )


def run(arguments: Sequence[str]) -> int:
    settings = read_settings(Settings, "stoker worker", arguments)
    try:
        return run_service("worker", settings, main, **({"worker": settings.name} if settings.name else {}))
    except ConfigurationError as error:
        raise BadSetting(f"functions: {error}") from error


if __name__ == "__main__":
    exit_with(run)
