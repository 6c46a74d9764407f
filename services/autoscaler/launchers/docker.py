"""Workers as containers, through the Docker Engine API (https://docs.docker.com/reference/api/engine/).

Containers carry labels with the replica's id and the cluster; the network is the host's, and local weights
are mounted read-only where they are. `image` of a profile has Stoker installed; without a reachable registry
it must be on the machine.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from stoker.services.autoscaler.events import Seen
from stoker.services.autoscaler.launchers.base import (
    LaunchError,
    Order,
    OutOfStock,
    cards_for,
    check_inventory,
    local_weights,
)
from stoker.services.autoscaler.launchers.http_api import Api
from stoker.services.process.devices import cards
from stoker.services.process.http_clients import async_client

REPLICA, CLUSTER, UNITS, CARDS = "stoker.replica", "stoker.cluster", "stoker.units", "stoker.cards"
TIMEOUT_S = 30.0
STOP_MARGIN_S = 30.0
DEFAULT_HOST = "unix:///var/run/docker.sock"
OVER = ("exited", "dead", "removing")
OUT_OF_STOCK = ("could not select device driver", "insufficient", "no space left", "cannot allocate")
"""What the engine says when the hardware that was asked for is not there."""


class DockerLauncher:
    """`host` as in DOCKER_HOST: unix:///… or tcp://…."""

    name = "docker"

    def __init__(self, cluster: str, host: str = "") -> None:
        address = host or os.environ.get("DOCKER_HOST", "") or DEFAULT_HOST
        if address.startswith("unix://"):
            transport = httpx.AsyncHTTPTransport(uds=address.removeprefix("unix://"))
            client = httpx.AsyncClient(
                transport=transport, base_url="http://docker", timeout=TIMEOUT_S, trust_env=False
            )
        else:
            client = async_client(address.replace("tcp://", "http://"), timeout=TIMEOUT_S)
        self._api = Api("Docker", client)
        self._cluster = cluster
        self._has_local_cards = address.startswith("unix://")
        self._launching = asyncio.Lock()
        """One at a time: the GPUs that one is given are seen by the next."""

    async def launch(self, order: Order) -> None:
        async with self._launching:
            await self._launch(order)

    async def _launch(self, order: Order) -> None:
        present = await asyncio.to_thread(cards) if order.gpus and self._has_local_cards else []
        in_use, taken = 0, set[str]()
        for container in await self._containers():
            profile, _, units = container["Labels"].get(UNITS, "").partition(":")
            in_use += (
                int(units or 1) if profile == order.profile.name and container["State"] == "running" else 0
            )
            if container["State"] not in OVER:
                taken |= set(container["Labels"].get(CARDS, "").split(","))
        check_inventory(order, in_use)
        given = cards_for(order, present, taken)
        name = self._name(order.replica)
        try:
            await self._api.call(
                "POST", "/containers/create", params={"name": name}, json=self._body(order, given)
            )
        except LaunchError as error:  # one of this name may run: it is not removed
            raise _named(error) from error
        try:
            await self._api.call("POST", f"/containers/{name}/start")
        except LaunchError as error:
            await self._remove(order.replica)
            raise _named(error) from error

    def _name(self, replica: str) -> str:
        return f"stoker-{self._cluster}-{replica}"

    def _body(self, order: Order, given: Sequence[str]) -> dict[str, Any]:
        """given: GPUs by their UUIDs; where they are not known, Docker gives the first ones to everybody."""
        host: dict[str, Any] = {
            "NetworkMode": "host",
            "Init": True,
            "NanoCpus": int(order.cpu * 1e9),
            "Memory": order.memory_bytes,
            "Binds": [f"{path}:{path}:ro" for path in local_weights(order)],
        }
        if order.gpus:
            which = {"DeviceIDs": list(given)} if given else {"Count": order.gpus}
            host["DeviceRequests"] = [{"Driver": "nvidia", "Capabilities": [["gpu"]], **which}]
        return {
            "Image": order.profile.image,
            "Cmd": ["python", "-P", "-m", "stoker.services.worker", *order.arguments],
            "Env": [f"{key}={value}" for key, value in order.env.items()],
            "Labels": {
                REPLICA: order.replica,
                CLUSTER: self._cluster,
                UNITS: f"{order.profile.name}:{order.units}",
                CARDS: ",".join(given),
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
            return
        await self._api.call(
            "POST",
            f"/containers/{self._name(replica)}/stop",
            params={"t": str(int(grace_s))},
            missing_ok=True,
            timeout=grace_s + STOP_MARGIN_S,
        )

    async def _remove(self, replica: str) -> None:
        path = f"/containers/{self._name(replica)}"
        await self._api.call("DELETE", path, params={"force": "true"}, missing_ok=True)

    async def close(self) -> None:
        await self._api.close()


def _named(error: LaunchError) -> LaunchError:
    """The same error, as a stock-out where it is one."""
    is_stock = any(phrase in str(error).lower() for phrase in OUT_OF_STOCK)
    return OutOfStock(str(error)) if is_stock else error


def _seen(container: dict[str, Any]) -> Seen:
    match container["State"]:
        case "running" | "paused" | "restarting":
            return Seen("running")
        case "created":
            return Seen("pending")
        case _:
            return Seen("ended", f"its container ended: {container.get('Status', '')}")
