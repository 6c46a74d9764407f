"""Workers as Nomad jobs, one job a replica, through the HTTP API.

A job whose evaluation cannot place it is a stock-out. Jobs are listed with blocking queries. The address, the
token and TLS come from NOMAD_ADDR, NOMAD_TOKEN, NOMAD_NAMESPACE, NOMAD_CACERT, NOMAD_CLIENT_CERT and
NOMAD_CLIENT_KEY, as for the `nomad` command.

STOKER_NOMAD_WORKER_VARIABLE names a Nomad variable with the item stoker_worker_password: workers read their
NATS password from it, and none is in a job. The variable `nomad/jobs` is one that every job may read.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any

from stoker.services.autoscaler.events import Seen
from stoker.services.autoscaler.launchers.base import (
    LaunchError,
    Order,
    OutOfStock,
    check_inventory,
    local_weights,
)
from stoker.services.autoscaler.launchers.http_api import Api
from stoker.services.process.http_clients import async_client

TIMEOUT_S = 30.0
LOOK_WAIT_S = 5.0
EVALUATION_TIMEOUT_S = 30.0
EVALUATION_POLL_S = 0.2
MHZ_PER_CORE = 1000
PASSWORD = "STOKER_NATS_PASSWORD"
KILL_TIMEOUT_S = 600
"""How long a client may let a worker finish; its own max_kill_timeout must allow as much."""


class NomadLauncher:
    """See the file's opening."""

    name = "nomad"

    def __init__(self, cluster: str, environment: Mapping[str, str] = os.environ) -> None:
        self._prefix = f"stoker-{cluster}-"
        self._variable = environment.get("STOKER_NOMAD_WORKER_VARIABLE", "")
        headers = {"X-Nomad-Token": environment["NOMAD_TOKEN"]} if environment.get("NOMAD_TOKEN") else {}
        namespace = environment.get("NOMAD_NAMESPACE")
        client = async_client(
            environment.get("NOMAD_ADDR", "http://127.0.0.1:4646"),
            headers=headers,
            params={"namespace": namespace} if namespace else None,
            verify=_tls(environment),
            timeout=TIMEOUT_S,
        )
        self._api = Api("Nomad", client)
        self._index = "0"
        self._jobs: dict[str, dict[str, Any]] = {}

    async def launch(self, order: Order) -> None:
        in_use = sum(
            int(meta.get("stoker_units", 1))
            for job in self._jobs.values()
            if (meta := job.get("Meta") or {}).get("stoker_profile") == order.profile.name
        )
        check_inventory(order, in_use)
        job = self.job(order)
        answer = await self._api.call("POST", "/v1/jobs", json={"Job": job})
        evaluation = answer.json().get("EvalID")
        why = await self._why_not_placed(evaluation) if evaluation else ""
        if why:
            await self._delete(order.replica, is_purge=True)
            raise OutOfStock(why)

    def job(self, order: Order) -> dict[str, Any]:
        """The job that is registered for an order; deploy/nomad/worker.nomad.hcl says the same."""
        profile = order.profile
        resources: dict[str, Any] = {
            "CPU": int(order.cpu * MHZ_PER_CORE) or 100,
            "MemoryMB": order.memory_bytes // 10**6 or 256,
        }
        if order.gpus and profile.gpu is not None:
            kind = f"nvidia/gpu/{profile.gpu.kind}" if profile.gpu.kind else "nvidia/gpu"
            resources["Devices"] = [{"Name": kind, "Count": order.gpus}]
        task: dict[str, Any] = {
            "Name": "worker",
            "Driver": "docker",
            "Config": {
                "image": profile.image,
                "command": "python",
                "args": ["-P", "-m", "stoker.services.worker", *order.arguments],
                "network_mode": "host",
                "volumes": [f"{path}:{path}:ro" for path in local_weights(order)],
            },
            "Env": order.env,
            "Resources": resources,
            "KillTimeout": KILL_TIMEOUT_S * 10**9,
        }
        if self._variable:
            task["Env"] = {name: value for name, value in order.env.items() if name != PASSWORD}
            task["Templates"] = [_password_template(self._variable)]
        return {
            "ID": self._prefix + order.replica,
            "Name": self._prefix + order.replica,
            "Type": "service",
            "Datacenters": list(profile.datacenters) or ["*"],
            "Constraints": [
                {"LTarget": f"${{{attribute}}}", "Operand": "=", "RTarget": value}
                for attribute, value in profile.constraints.items()
            ],
            "Meta": {
                "stoker_replica": order.replica,
                "stoker_profile": profile.name,
                "stoker_units": str(order.units),
            },
            "TaskGroups": [
                {
                    "Name": "worker",
                    "Count": 1,
                    "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
                    "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
                    "Tasks": [task],
                }
            ],
        }

    async def _why_not_placed(self, evaluation: str) -> str:
        """What Nomad lacks for the job; "" once it is placed."""
        deadline = time.monotonic() + EVALUATION_TIMEOUT_S
        while time.monotonic() < deadline:
            found = (await self._api.call("GET", f"/v1/evaluation/{evaluation}")).json()
            if failed := found.get("FailedTGAllocs"):
                return f"Nomad cannot place it: {_lacks(failed)}"
            match found.get("Status"):
                case "complete":
                    return ""
                case "failed" | "canceled":
                    raise LaunchError(f"Nomad: the evaluation {found.get('StatusDescription') or 'failed'}")
            await asyncio.sleep(EVALUATION_POLL_S)
        return ""

    async def look(self) -> dict[str, Seen]:
        params = {"prefix": self._prefix, "meta": "true", "index": self._index, "wait": f"{LOOK_WAIT_S:g}s"}
        answer = await self._api.call("GET", "/v1/jobs", params=params)
        self._index = answer.headers.get("X-Nomad-Index", "0")
        self._jobs = {job["ID"].removeprefix(self._prefix): job for job in answer.json()}
        return {replica: await self._seen(job) for replica, job in self._jobs.items()}

    async def _seen(self, job: dict[str, Any]) -> Seen:
        match job["Status"]:
            case "running":
                return Seen("running")
            case "pending":
                return Seen("pending")
            case _:
                return Seen("ended", await self._why_ended(job["ID"]))

    async def _why_ended(self, job: str) -> str:
        answer = await self._api.call("GET", f"/v1/job/{job}/allocations", missing_ok=True)
        if answer.status_code == 404 or not answer.json():
            return "Nomad has ended it"
        newest = max(answer.json(), key=lambda allocation: allocation.get("ModifyIndex", 0))
        states = (newest.get("TaskStates") or {}).values()
        told = [event.get("DisplayMessage") for state in states for event in (state.get("Events") or [])]
        return f"Nomad: {told[-1]}" if told and told[-1] else f"Nomad: {newest.get('ClientStatus', 'ended')}"

    async def stop(self, replica: str, grace_s: float) -> None:
        await self._delete(replica, is_purge=grace_s == 0)

    async def _delete(self, replica: str, *, is_purge: bool) -> None:
        path = f"/v1/job/{self._prefix}{replica}"
        await self._api.call("DELETE", path, params={"purge": str(is_purge).lower()}, missing_ok=True)

    async def close(self) -> None:
        await self._api.close()


def _password_template(variable: str) -> dict[str, Any]:
    """The password of a Nomad variable as the task's environment. What runs goes on when it changes."""
    text = (
        f'{{{{ with nomadVar "{variable}" -}}}}\n'
        f"{PASSWORD}={{{{ .stoker_worker_password.Value | toJSON }}}}\n{{{{ end }}}}\n"
    )
    return {
        "DestPath": "${NOMAD_SECRETS_DIR}/passwords.env",
        "Envvars": True,
        "ChangeMode": "noop",
        "EmbeddedTmpl": text,
    }


def _lacks(failed: Mapping[str, Any]) -> str:
    """Why groups could not be placed: the dimensions that are exhausted, the constraints that filter."""
    reasons: list[str] = []
    for metrics in failed.values():
        for word, key in (("exhausted", "DimensionExhausted"), ("filtered by", "ConstraintFiltered")):
            reasons += [f"{word} {name} on {count} nodes" for name, count in (metrics.get(key) or {}).items()]
        if not metrics.get("NodesEvaluated"):
            reasons.append("no node is eligible")
    return ", ".join(reasons) or "no node has room"


def _tls(environment: Mapping[str, str]) -> ssl.SSLContext | bool:
    authority = environment.get("NOMAD_CACERT")
    certificate = environment.get("NOMAD_CLIENT_CERT")
    if not authority and not certificate:
        return True
    context = ssl.create_default_context(cafile=authority or None)
    if certificate:
        context.load_cert_chain(certificate, environment.get("NOMAD_CLIENT_KEY"))
    return context
