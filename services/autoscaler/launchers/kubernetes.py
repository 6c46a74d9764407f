"""Workers as Pods, through the Kubernetes API (https://kubernetes.io/docs/reference/kubernetes-api/).

A Pod and not a Job for each replica: the autoscaler itself decides what follows an end. A Job's controller
would replace a Pod that a drained node has lost, by a second worker of the same id; and Pods would have to be
read all the same, since only they say that no node has room.

A Pod carries the cluster as a label and the replica's id as an annotation; its name is made of both, and the
API refuses a second one (409). `look` reads the list again only after a change (a watch says so).

Inside a cluster the service account of the autoscaler's Pod is used: its token, which is read for every request
because it is replaced every hour, its authority and its namespace. STOKER_KUBERNETES_URL, _TOKEN_FILE, _CA_FILE
and _NAMESPACE name others. STOKER_KUBERNETES_TEMPLATES is a file of PodTemplates, read for every launch: the
one with the profile's name, else `default`. STOKER_KUBERNETES_ADDS_NODES=true: nodes are added for Pods that
find no room; without it such a Pod is a stock-out, and is deleted again.
"""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from stoker.services.autoscaler.events import Seen
from stoker.services.autoscaler.launchers import pods
from stoker.services.autoscaler.launchers.base import (
    LaunchError,
    Misconfigured,
    Order,
    OutOfStock,
    Unavailable,
    check_inventory,
)
from stoker.services.autoscaler.launchers.http_api import Api
from stoker.services.process.http_clients import async_client

TIMEOUT_S = 30.0
WATCH_S = 1
PAGE_PODS = 500
MAX_LISTS = 3
"""A list whose next page is asked for too late (410) is begun again, this often in all."""
PLACING_TIMEOUT_S, PLACING_POLL_S = 30.0, 0.2
MAX_TEMPLATES_BYTES = 1024**2
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a Pod finds the token, the authority and the namespace of its service account."""
CLUSTER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
DEFAULT = "default"
RIGHTS = "the Role in deploy/kubernetes/base/autoscaler.yaml has what is needed"


class _Token(httpx.Auth):
    """The token of a file, as it is at each request."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        try:
            request.headers["Authorization"] = f"Bearer {self._file.read_text().strip()}"
        except OSError as error:
            raise Unavailable(f"Kubernetes: the token {self._file} cannot be read: {error.strerror}") from error
        yield request


class KubernetesLauncher:
    """See the file's opening. Raises Unavailable without an API, and for a name that cannot be a label."""

    name = "kubernetes"

    def __init__(self, cluster: str, environment: Mapping[str, str] = os.environ) -> None:
        if not CLUSTER_NAME.fullmatch(cluster):
            raise Unavailable(
                f"--cluster {cluster!r}: Kubernetes wants small letters, digits and -, 40 at most"
            )
        self._cluster = cluster
        self._adds_nodes = environment.get("STOKER_KUBERNETES_ADDS_NODES", "").lower() in ("1", "true", "yes")
        templates = environment.get("STOKER_KUBERNETES_TEMPLATES")
        self._templates = Path(templates) if templates else None
        self._path = f"/api/v1/namespaces/{_namespace(environment)}/pods"
        url = _url(environment)
        token = Path(environment.get("STOKER_KUBERNETES_TOKEN_FILE") or f"{ACCOUNT}/token")
        client = async_client(url, auth=_Token(token), verify=_tls(url, environment), timeout=TIMEOUT_S)
        self._api = Api("Kubernetes", client, _named)
        self._version = ""
        """Of the last list; "" where there is none that could be used again."""
        self._seen: dict[str, Seen] = {}

    async def launch(self, order: Order) -> None:
        if order.profile.inventory is not None:
            check_inventory(order, pods.units_in_use((await self._list())[0], order.profile.name))
        pod = pods.make_pod(self._cluster, order, self._template(order.profile.name))
        await self._api.call("POST", self._path, json=pod)
        if self._adds_nodes:
            return
        why = await self._why_not_placed(order.replica)
        if why:
            await self.stop(order.replica, 0.0)
            raise OutOfStock(f"Kubernetes cannot place it: {why}")

    def _template(self, profile: str) -> Mapping[str, Any]:
        """The `template` of the profile's PodTemplate. Raises Misconfigured."""
        if self._templates is None:
            return pods.DEFAULT_TEMPLATE
        try:
            with self._templates.open("rb") as file:
                text = file.read(MAX_TEMPLATES_BYTES)
            found = {
                document["metadata"]["name"]: document["template"]
                for document in yaml.safe_load_all(text)
                if document is not None and document["kind"] == "PodTemplate"
            }
        except OSError as error:
            raise Misconfigured(f"STOKER_KUBERNETES_TEMPLATES: {self._templates}: {error.strerror}") from error
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise Misconfigured(f"{self._templates} has something else than PodTemplates: {error!r}") from error
        template = found.get(profile, found.get(DEFAULT, pods.DEFAULT_TEMPLATE))
        if not isinstance(template, dict):
            raise Misconfigured(f"{self._templates}: the template for {profile} is empty")
        return template

    async def _why_not_placed(self, replica: str) -> str:
        """What nodes lack for it; "" once one has it, or while nothing is known after `PLACING_TIMEOUT_S`."""
        deadline = time.monotonic() + PLACING_TIMEOUT_S
        name = pods.pod_name(self._cluster, replica)
        while time.monotonic() < deadline:
            answer = await self._api.call("GET", f"{self._path}/{name}", missing_ok=True)
            if answer.status_code == 404 or pods.is_placed(answer.json()):  # 404: it was stopped meanwhile
                return ""
            if why := pods.why_not_placed(answer.json()):
                return why
            await asyncio.sleep(PLACING_POLL_S)
        return ""

    async def look(self) -> dict[str, Seen]:
        if self._version and not await self._has_changed():
            return self._seen
        self._version = ""
        listed, version = await self._list()
        self._seen = {replica: pods.seen(pod) for pod in listed if (replica := pods.replica_of(pod))}
        self._version = version
        return self._seen

    async def _has_changed(self) -> bool:
        """Whether anything is not as in the last list, or may be; waits `WATCH_S` for a change."""
        params = self._selector() | {"watch": "true", "resourceVersion": self._version}
        try:
            answer = await self._api.call("GET", self._path, params=params | {"timeoutSeconds": str(WATCH_S)})
        except _Expired:
            return True
        return bool(answer.content)

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": f"{pods.CLUSTER}={self._cluster}"}

    async def _list(self) -> tuple[list[dict[str, Any]], str]:
        """All Pods of the cluster as they were at one moment, and its version. Raises Unavailable."""
        for _ in range(MAX_LISTS):
            found: list[dict[str, Any]] = []
            params = {**self._selector(), "limit": str(PAGE_PODS)}
            try:
                while True:
                    page = (await self._api.call("GET", self._path, params=params)).json()
                    found += page.get("items") or ()
                    if not page["metadata"].get("continue"):
                        return found, page["metadata"]["resourceVersion"]
                    params["continue"] = page["metadata"]["continue"]
            except _Expired:
                continue
        raise Unavailable("Kubernetes: the list of Pods expired while it was read")

    async def stop(self, replica: str, grace_s: float) -> None:
        """At once means one second: with 0 the API would forget a Pod whose processes may still run.

        Pods that have ended, or that no node has, are gone at once whatever is said.
        """
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": max(int(grace_s), 1)}
        path = f"{self._path}/{pods.pod_name(self._cluster, replica)}"
        await self._api.call("DELETE", path, json=options, missing_ok=True)

    async def close(self) -> None:
        await self._api.close()


class _Expired(LaunchError):
    """The version that was asked for is not kept any more."""


def _named(name: str, method: str, status: int, said: str) -> LaunchError:
    """The error for an answer: its status, and for 403 and 409 what the API says of it."""
    told = f"{name}: {said} ({status})"
    match status:
        case 403 if "exceeded quota" in said:
            return OutOfStock(told)
        case 401 | 403 if method == "GET":
            return Unavailable(f"{told}; {RIGHTS}")
        case 401 | 403:
            return Misconfigured(f"{told}; {RIGHTS}")
        case 400 | 422:
            return Misconfigured(f"{told}; mend the resource profile, or the PodTemplate that it is made from")
        case 410:
            return _Expired(told)
        case 409 if "already exists" in said:
            return LaunchError(told)
        case 409 | 429:
            return Unavailable(told)
        case _ if status >= 500:
            return Unavailable(told)
        case _:
            return LaunchError(told)


def _url(environment: Mapping[str, str]) -> str:
    if url := environment.get("STOKER_KUBERNETES_URL"):
        return url
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise Unavailable("no Kubernetes is here: run the autoscaler in a Pod, or set STOKER_KUBERNETES_URL")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _namespace(environment: Mapping[str, str]) -> str:
    if namespace := environment.get("STOKER_KUBERNETES_NAMESPACE"):
        return namespace
    try:
        return Path(f"{ACCOUNT}/namespace").read_text().strip()
    except OSError:
        return DEFAULT


def _tls(url: str, environment: Mapping[str, str]) -> ssl.SSLContext | bool:
    authority = environment.get("STOKER_KUBERNETES_CA_FILE") or f"{ACCOUNT}/ca.crt"
    if not url.startswith("https://"):
        return True
    if not Path(authority).exists():
        if environment.get("STOKER_KUBERNETES_CA_FILE"):
            raise Unavailable(f"STOKER_KUBERNETES_CA_FILE: there is no file {authority}")
        return True
    return ssl.create_default_context(cafile=authority)
