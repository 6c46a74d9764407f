"""What the Kubernetes launcher creates, and what it reads from the Pods that there are. Pure.

A Pod is made from a template (a PodTemplate of the launcher's file) and an order. The order says what runs: the
command, its arguments, the image, cores, memory and GPUs. The template says how: volumes, Secrets, tolerations,
security. A variable that the template sets is the template's, so that passwords stay in Secrets.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from stoker.services.autoscaler.events import Seen
from stoker.services.autoscaler.launchers.base import Misconfigured, Order, local_weights

CLUSTER, REPLICA, PROFILE, UNITS = "stoker-cluster", "stoker-replica", "stoker-profile", "stoker-units"
"""A label, and annotations: replica ids and names of profiles may be longer than a label's 63 characters."""
CONTAINER = "worker"
GPU_RESOURCE, GPU_LABEL = "nvidia.com/gpu", "nvidia.com/gpu.product"
ZONE_LABEL = "topology.kubernetes.io/zone"
TERMINATION_GRACE_S = 600
"""How long a worker may finish when its node is drained; a stop by the autoscaler says its own."""
MAX_MESSAGE_CHARS = 300
NEVER_STARTS = (
    "InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError",
)  # fmt: skip
"""Why a container waits that will not start by itself, or not soon."""

DEFAULT_TEMPLATE: dict[str, Any] = {
    "spec": {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "runAsGroup": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTAINER,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
}
"""Where there is no template: what the Restricted standard of Kubernetes asks for, and a folder to write in."""


def pod_name(cluster: str, replica: str) -> str:
    """A Pod's name; the API refuses a second one of the same name."""
    return f"stoker-{cluster}-{replica}"


def make_pod(cluster: str, order: Order, template: Mapping[str, Any]) -> dict[str, Any]:
    """The Pod of an order. template: `template` of a PodTemplate. Raises Misconfigured."""
    made = copy.deepcopy(dict(template))
    metadata, spec = made.get("metadata") or {}, made.get("spec") or {}
    containers = spec.setdefault("containers", [])
    container = next((one for one in containers if one.get("name") == CONTAINER), None)
    if container is None:
        container = {"name": CONTAINER}
        containers.insert(0, container)
    _fill_container(container, order)
    _check_weights(container, order)
    spec["restartPolicy"] = "Never"  # the autoscaler decides what follows an end
    spec.setdefault("terminationGracePeriodSeconds", TERMINATION_GRACE_S)
    spec.setdefault("automountServiceAccountToken", False)
    spec.setdefault("enableServiceLinks", False)  # variables of a Service `stoker` would be settings of ours
    spec.setdefault(
        "shareProcessNamespace", True
    )  # as process 1 a worker would not hear SIGTERM while it starts
    _place(spec, order)
    labels = {"app.kubernetes.io/name": "stoker-worker", **(metadata.get("labels") or {}), CLUSTER: cluster}
    annotations = {
        **(metadata.get("annotations") or {}),
        REPLICA: order.replica,
        PROFILE: order.profile.name,
        UNITS: str(order.units),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(cluster, order.replica), "labels": labels, "annotations": annotations},
        "spec": spec,
    }


def _fill_container(container: dict[str, Any], order: Order) -> None:
    own = container.get("env") or []
    taken = {variable.get("name") for variable in own}
    given = [{"name": name, "value": value} for name, value in order.env.items() if name not in taken]
    container["env"] = [*given, *own]
    container["image"] = order.profile.image
    container["command"] = ["python", "-P", "-m", "stoker.services.worker"]
    container["args"] = list(order.arguments)
    resources = container.setdefault("resources", {})
    requests, limits = resources.setdefault("requests", {}), resources.setdefault("limits", {})
    if order.cpu:
        requests["cpu"] = f"{math.ceil(order.cpu * 1000)}m"
    if order.memory_bytes:
        requests["memory"] = limits["memory"] = str(order.memory_bytes)
    if order.gpus:
        limits[GPU_RESOURCE] = order.gpus


def _check_weights(container: Mapping[str, Any], order: Order) -> None:
    """Raises Misconfigured when weights lie where the template mounts nothing."""
    mounts = [PurePosixPath(mount["mountPath"]) for mount in container.get("volumeMounts") or ()]
    for path in local_weights(order):
        if not any(PurePosixPath(path).is_relative_to(mount) for mount in mounts):
            raise Misconfigured(
                f"the weights {path} are in no volume of the Pod: "
                f"give the PodTemplate {order.profile.name!r} or 'default' a volumeMount above them"
            )


def _place(spec: dict[str, Any], order: Order) -> None:
    """Which nodes may take it: the profile's constraints are labels, its datacenters are zones."""
    profile = order.profile
    labels = dict(profile.constraints)
    if profile.gpu is not None and profile.gpu.kind:
        labels.setdefault(GPU_LABEL, profile.gpu.kind)
    if labels:
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **labels}
    if profile.datacenters:
        rule = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
        terms = rule.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
        for term in terms.setdefault("nodeSelectorTerms", [{}]):  # one of them has to hold
            zones = {"key": ZONE_LABEL, "operator": "In", "values": list(profile.datacenters)}
            term.setdefault("matchExpressions", []).append(zones)


def replica_of(pod: Mapping[str, Any]) -> str:
    """The replica's id; "" when somebody else has made the Pod."""
    found: str = (pod["metadata"].get("annotations") or {}).get(REPLICA, "")
    return found


def units_in_use(pods: list[dict[str, Any]], profile: str) -> int:
    """Units of a profile that Pods take which have not ended."""
    notes = [pod["metadata"].get("annotations") or {} for pod in pods if seen(pod).state != "ended"]
    return sum(int(note.get(UNITS) or 1) for note in notes if note.get(PROFILE) == profile)


def seen(pod: Mapping[str, Any]) -> Seen:
    """A Pod as the autoscaler sees it. One that is being deleted runs until it has ended."""
    status = pod.get("status") or {}
    match status.get("phase"):
        case "Running":
            return Seen("running")
        case "Succeeded" | "Failed":
            return Seen("ended", _why_ended(status))
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in NEVER_STARTS:
            return Seen("ended", _said("it does not start", waiting))
    return Seen("pending")


def is_placed(pod: Mapping[str, Any]) -> bool:
    """Whether a node has it, or will once what it displaces there is gone."""
    return bool((pod.get("spec") or {}).get("nodeName") or (pod.get("status") or {}).get("nominatedNodeName"))


def why_not_placed(pod: Mapping[str, Any]) -> str:
    """What nodes lack for a Pod; "" while that has not been found out, or once it is placed."""
    if is_placed(pod):
        return ""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if (condition.get("type"), condition.get("status")) == ("PodScheduled", "False") and (
            condition.get("reason") == "Unschedulable"
        ):
            return str(condition.get("message") or "no node has room")[:MAX_MESSAGE_CHARS]
    return ""


def _why_ended(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if ended and container.get("name") == CONTAINER:
            return _said(f"its container ended with status {ended.get('exitCode')}", ended)
    return _said("its Pod ended", status)


def _said(what: str, told: Mapping[str, Any]) -> str:
    more = ", ".join(str(told[key]).strip() for key in ("reason", "message") if told.get(key))
    return (f"{what}: {more}" if more else what)[:MAX_MESSAGE_CHARS]
