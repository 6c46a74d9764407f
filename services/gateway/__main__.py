"""`python -m stoker.services.gateway`, `stoker gateway`: one gateway process."""

import stoker.services.bus  # isort: skip  # noqa: F401  # nats-py without aiohttp

import asyncio
import os
import socket
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from nats.nuid import NUID

from stoker.schemas import subjects
from stoker.services.bus.connection import open_bus
from stoker.services.bus.discovery import register
from stoker.services.bus.streams import wait_for_streams
from stoker.services.catalog import store
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.gateway.app import MAX_HEADER_BYTES, create_app, dialect_at, with_header_limit
from stoker.services.gateway.batches.owning import Batches
from stoker.services.gateway.calls import Calls
from stoker.services.gateway.edge.access import Access
from stoker.services.gateway.edge.access_middleware import with_access
from stoker.services.gateway.edge.asgi import ASGIApp
from stoker.services.gateway.edge.connections import Bounds, Connections, taken_together
from stoker.services.gateway.edge.door import Door, listed, own_names
from stoker.services.gateway.edge.door_middleware import with_door
from stoker.services.gateway.edge.traced import with_traces
from stoker.services.gateway.fetching import INPUT_URLS, Fetching
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.webhook_urls import WebhookRules
from stoker.services.gateway.message_requests import MessageRequests
from stoker.services.gateway.reloading import Reloading
from stoker.services.gateway.routes.modes import load_mode
from stoker.services.gateway.schedules.keeping import Schedules
from stoker.services.gateway.settings import Settings
from stoker.services.gateway.webhooks import Webhooks
from stoker.services.process import open_files
from stoker.services.process.logs import get_logger
from stoker.services.process.running import exit_with, run_service
from stoker.services.process.settings import BadSetting, read_settings
from stoker.services.process.tasks import until
from stoker.services.process.telemetry import serve_metrics
from stoker.services.process.tracing import recorder
from stoker.services.records.keys import watch_keys
from stoker.services.records.replicas import watch_replicas
from stoker.services.records.seal_key import knowing_seals

log = get_logger("gateway")

BUCKETS = (subjects.CATALOG_BUCKET, subjects.REPLICAS_BUCKET, subjects.KEYS_BUCKET, subjects.SECRETS_BUCKET)
STREAMS = (
    subjects.JOBS_STREAM,
    subjects.RESULTS_STREAM,
    subjects.EVENTS_STREAM,
    subjects.WEBHOOKS_STREAM,
    subjects.BLOBS_STREAM,
    *map(subjects.of_bucket, BUCKETS),
)
"""What it uses."""
BACKLOG = 2048
OWN_FILES = 256
"""What a gateway may have open beside its clients' connections: files, what it fetches and sends."""
ONE_ADDRESS = 0.9
"""The share of all connections that those of one address may be."""
STOP_GRACE_S = 5
KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections: who closes first must not be hit by a request under way."""
DEFAULT_QUEUE_MAX = 64


def _listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A socket with its address. is_shared: the kernel spreads connections over all gateways that listen there,
    so this one does not yet.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise BadSetting(
            f"port: cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    if not is_shared:
        listener.listen(BACKLOG)
    return listener


def metrics_of(text: str) -> dict[str, str]:
    """Names and addresses. Raises BadSetting."""
    found: dict[str, str] = {}
    for one in filter(None, text.split(",")):
        name, sign, url = one.partition("=")
        if not name or not sign or not url.startswith(("http://", "https://")):
            raise BadSetting(f"metrics-of: {one!r} is not NAME=http://HOST:PORT")
        found[name] = url
    return found


def bounds_of(settings: Settings, files: int) -> Bounds:
    """What one client may take before it has shown a key. files: how many this process may have open, of which
    connections leave some, and one address leaves some to others.
    """
    in_all = max(files - OWN_FILES, files // 2)
    return Bounds(
        head_bytes=MAX_HEADER_BYTES,
        head_s=settings.head_timeout_s,
        body_pause_s=settings.body_timeout_s,
        per_address=min(settings.max_connections, max(int(ONE_ADDRESS * in_all), 1)),
        in_all=in_all,
    )


def webhook_rules(settings: Settings) -> WebhookRules:
    """Which webhooks may be. Raises BadSetting."""
    ports = listed(settings.webhook_ports)
    try:
        numbers = frozenset() if "*" in ports else frozenset(int(port) for port in ports)
    except ValueError as error:
        raise BadSetting("webhook-ports must be numbers, separated by commas, or *") from error
    return WebhookRules(settings.webhook_private, numbers)


def _queue_max() -> int:
    """QUEUE_MAX: generations that may wait. Raises BadSetting."""
    try:
        return int(os.environ.get("QUEUE_MAX", DEFAULT_QUEUE_MAX))
    except ValueError as error:
        raise BadSetting(f"QUEUE_MAX must be a number, not {os.environ['QUEUE_MAX']!r}") from error


def is_local(settings: Settings) -> bool:
    """Whether nobody but this machine can reach the gateway."""
    return settings.host == "localhost" or _is_loopback(settings.host)


def door_of(settings: Settings) -> Door:
    """Which names the gateway answers to, and which pages may ask it."""
    hosts, origins = listed(settings.allowed_hosts), listed(settings.cors_origin)
    return Door(is_local(settings), needs_keys(settings), hosts, origins, own_names())


def needs_keys(settings: Settings) -> bool:
    """As soon as others than this machine can reach the gateway, unless that is wanted."""
    return settings.require_keys or not (is_local(settings) or settings.insecure)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def load_default_mode(gateway: Gateway) -> None:
    """Have the default mode loaded, once a worker is there that can; then sleep for ever."""
    await gateway.fleet.catalog_read.wait()
    while gateway.reloading is not None and gateway.reloading.has_files:
        mode = gateway.modes.all().get(gateway.modes.current)
        if mode is None or mode.mode is None:
            break
        if gateway.fleet.image_workers():
            if not gateway.fleet.is_hot(mode.name):
                await load_mode(gateway, mode)
            break
        await asyncio.sleep(0.1)
    await asyncio.Event().wait()


async def main(settings: Settings, stopping: asyncio.Event) -> None:
    serve_metrics(settings.metrics_host, settings.metrics_port)
    listener = _listen(settings.host, settings.port, is_shared=settings.share_port)
    name = settings.name or "gw-" + NUID().next().decode()[-8:]
    async with open_bus(settings, f"stoker-gateway-{name}", role="gateway", stopping=stopping) as bus:
        await wait_for_streams(bus, stopping, *STREAMS)
        paths = [Path(path) for path in settings.config.split(",") if path]
        projects = [Path(path) for path in settings.functions.split(",") if path]
        reloading = Reloading(bus, paths, projects, watch_projects=settings.reload, name=name)
        access = Access(is_required=needs_keys(settings))
        gateway = Gateway(bus, name, settings.max_streams, _queue_max(), reloading, access)
        gateway.webhook_rules = webhook_rules(settings)
        gateway.fetching = Fetching(INPUT_URLS[settings.input_urls])
        gateway.metrics_of = metrics_of(settings.metrics_of)
        if settings.publish:
            await reloading.reload()
        async with knowing_seals(bus), gateway.running():
            await register(bus, "gateway", "HTTP and server-sent events", {"gateway": name})
            log.info("gateway.listening", host=settings.host, port=listener.getsockname()[1], gateway=name)
            await _serve(gateway, reloading, settings, listener, stopping)


async def _serve(
    gateway: Gateway,
    reloading: Reloading,
    settings: Settings,
    listener: socket.socket,
    stopping: asyncio.Event,
) -> None:
    """Answer requests until `stopping`; then requests under way have STOP_GRACE_S to end."""
    bus = gateway.bus
    access = gateway.access
    if settings.insecure and not is_local(settings):
        log.warning("gateway.insecure", host=settings.host, remedy="anybody who reaches it may use it")
    connections = Connections(bounds_of(settings, open_files.allowed()))
    app = with_access(create_app(gateway), access, gateway.limits.request, dialect_at)
    server = _server(app, door_of(settings), connections)
    host, port = listener.getsockname()[:2]
    messages = MessageRequests(bus, _recorded(app), settings.max_messages, f"{host}:{port}")
    secret = settings.webhook_secret or bus.seals.webhook_secret()
    webhooks = Webhooks(bus, secret, gateway.webhook_rules)

    async def serve() -> None:
        if settings.share_port:
            await gateway.fleet.catalog_read.wait()
        await server._serve(taken_together(listener))

    async def stop() -> None:
        await stopping.wait()
        server.should_exit = True
        await asyncio.sleep(STOP_GRACE_S + 1)

    await until(
        asyncio.Event(),
        serve,
        stop,
        connections.sweep,
        webhooks.deliver,
        partial(messages.run, stopping),
        partial(Calls(gateway).run, stopping),
        Batches(gateway).run,
        Schedules(gateway).run,
        partial(store.watch, bus, gateway.model_changed, gateway.fleet.catalog_read, gateway.fleet.noted),
        partial(watch_replicas, bus, gateway.fleet.replicas_changed),
        partial(watch_keys, bus, gateway.key_changed),
        reloading.watch,
        partial(load_default_mode, gateway),
    )


def _recorded(app: ASGIApp) -> ASGIApp:
    return with_traces(with_header_limit(app), recorder())


def _server(app: ASGIApp, door: Door, connections: Connections) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            _recorded(with_door(app, door, dialect_at)),
            http=connections.protocol(),
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=STOP_GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
            lifespan="off",
            server_header=False,
        )
    )


def run(arguments: Sequence[str]) -> int:
    try:
        return run_service("gateway", read_settings(Settings, "stoker gateway", arguments), main)
    except ConfigurationError as error:
        raise BadSetting(f"config: {error}") from error


if __name__ == "__main__":
    exit_with(run)
