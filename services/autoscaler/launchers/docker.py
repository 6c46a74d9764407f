"""Workers as containers, through the Docker Engine API (https://docs.docker.com/reference/api/engine/).

Containers carry labels with the replica's id and the cluster; the network is the host's, and local weights
are mounted read-only where they are. `image` of a profile has Stoker installed; without a reachable registry
it must be on the machine.
"""

import asyncio
import os
from typing import Any

import httpx
import msgspec

from services.autoscaler.events import Seen
from services.autoscaler.launchers.base import LaunchError, Order, OutOfStock, check_inventory
from services.autoscaler.launchers.http_api import Api

REPLICA, CLUSTER, UNITS = "stoker.replica", "stoker.cluster", "stoker.units"
TIMEOUT_S = 30.0
STOP_MARGIN_S = 30.0
DEFAULT_HOST = "unix:///var/run/docker.sock"
OUT_OF_STOCK = ("could not select device driver", "insufficient", "no space left", "cannot allocate")
"""What the engine says when the hardware that was asked for is not there."""


class DockerLauncher:
    """`host` as in DOCKER_HOST: unix:///… or tcp://…."""

    name = "docker"

    def __init__(self, cluster: str, host: str = "") -> None:
        address = host or os.environ.get("DOCKER_HOST", "") or DEFAULT_HOST
        if address.startswith("unix://"):
            transport = httpx.AsyncHTTPTransport(uds=address.removeprefix("unix://"))
            client = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=TIMEOUT_S)
        else:
            client = httpx.AsyncClient(base_url=address.replace("tcp://", "http://"), timeout=TIMEOUT_S)
        self._api = Api("Docker", client)
        self._cluster = cluster
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def launch(self, order: Order) -> None:
        in_use = 0
        for container in await self._containers():
            profile, _, units = container["Labels"].get(UNITS, "").partition(":")
            in_use += (
                int(units or 1) if profile == order.profile.name and container["State"] == "running" else 0
            )
        check_inventory(order, in_use)
        try:
            await self._api.call(
                "POST", "/containers/create", params={"name": self._name(order.replica)}, json=self._body(order)
            )
            await self._api.call("POST", f"/containers/{self._name(order.replica)}/start")
        except LaunchError as error:
            await self._remove(order.replica)
            if any(phrase in str(error).lower() for phrase in OUT_OF_STOCK):
                raise OutOfStock(str(error)) from error
            raise

    def _name(self, replica: str) -> str:
        return f"stoker-{self._cluster}-{replica}"

    def _body(self, order: Order) -> dict[str, Any]:
        host: dict[str, Any] = {
            "NetworkMode": "host",
            "Init": True,
            "NanoCpus": int(order.cpu * 1e9),
            "Memory": order.memory_bytes,
            "Binds": [f"{path}:{path}:ro" for path in _local_weights(order)],
        }
        if order.gpus:
            host["DeviceRequests"] = [{"Driver": "nvidia", "Count": order.gpus, "Capabilities": [["gpu"]]}]
        return {
            "Image": order.profile.image,
            "Cmd": ["python", "-P", "-m", "services.worker", *order.arguments],
            "Env": [f"{key}={value}" for key, value in order.env.items()],
            "Labels": {
                REPLICA: order.replica,
                CLUSTER: self._cluster,
                UNITS: f"{order.profile.name}:{order.units}",
            },
            "HostConfig": host,
        }

    async def _containers(self) -> list[dict[str, Any]]:
        filters = msgspec.json.encode({"label": [f"{CLUSTER}={self._cluster}"]}).decode()
        answer = await self._api.call("GET", "/containers/json", params={"all": "true", "filters": filters})
        found: list[dict[str, Any]] = answer.json()
        return found

    async def look(self) -> dict[str, Seen]:
        return {one["Labels"][REPLICA]: _seen(one) for one in await self._containers()}

    async def stop(self, replica: str, grace_s: float) -> None:
        if grace_s == 0:
            await self._remove(replica)
        elif replica not in self._stopping:
            task = asyncio.create_task(self._stop(replica, grace_s))
            self._stopping[replica] = task
            task.add_done_callback(lambda _: self._stopping.pop(replica, None))

    async def _stop(self, replica: str, grace_s: float) -> None:
        try:
            await self._api.call(
                "POST",
                f"/containers/{self._name(replica)}/stop",
                params={"t": str(int(grace_s))},
                missing_ok=True,
                timeout=grace_s + STOP_MARGIN_S,
            )
        except LaunchError:
            return  # it is still listed, so it will be stopped again

    async def _remove(self, replica: str) -> None:
        path = f"/containers/{self._name(replica)}"
        await self._api.call("DELETE", path, params={"force": "true"}, missing_ok=True)

    async def close(self) -> None:
        for task in self._stopping.values():
            task.cancel()
        await self._api.close()


def _local_weights(order: Order) -> list[str]:
    urls = [order.spec.url, *(adapter.url for adapter in (*order.spec.adapters, *order.spec.loras))]
    return sorted({url.removeprefix("file://") for url in urls if url.startswith("file://")})


def _seen(container: dict[str, Any]) -> Seen:
    match container["State"]:
        case "running" | "paused" | "restarting":
            return Seen("running")
        case "created":
            return Seen("pending")
        case _:
            return Seen("ended", f"its container ended: {container.get('Status', '')}")
