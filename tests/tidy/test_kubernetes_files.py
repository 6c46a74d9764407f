"""deploy/kubernetes: what the API takes, what our own programs know, and what the Restricted standard asks for."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stoker.schemas.catalog import Spec
from stoker.services.autoscaler.core import DRAIN_LIMIT_S
from stoker.services.autoscaler.launchers import kubernetes
from stoker.services.autoscaler.launchers.base import Order
from stoker.services.autoscaler.launchers.pods import TERMINATION_GRACE_S, make_pod
from stoker.services.autoscaler.settings import Settings as AutoscalerSettings
from stoker.services.bus.permissions import services
from stoker.services.catalog.load import load
from stoker.services.gateway.app import ROUTES
from stoker.services.gateway.settings import Settings as GatewaySettings
from stoker.services.process.embedded import find_binary
from stoker.services.process.settings import BusSettings, read_settings
from stoker.services.scheduler.settings import Settings as SchedulerSettings
from stoker.services.worker.settings import Settings as WorkerSettings
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
FOLDERS = [FOLDER / "base", FOLDER / "overlays" / "gpu"]
VERSION = kubernetes_validate.latest_version()
KINDS: dict[str, type[BusSettings]] = {
    "gateway": GatewaySettings,
    "scheduler": SchedulerSettings,
    "autoscaler": AutoscalerSettings,
    "worker": WorkerSettings,
    "install-streams": BusSettings,
}
"""Settings of the program in each container."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def kustomization(folder: Path) -> dict[str, Any]:
    [found] = documents(folder / "kustomization.yaml")
    return found


@cache
def objects() -> list[dict[str, Any]]:
    """Every object of the files, without those that kustomize makes."""
    names = [(folder, name) for folder in FOLDERS for name in kustomization(folder)["resources"]]
    return [one for folder, name in names if name.endswith(".yaml") for one in documents(folder / name)]


def config_maps(folder: Path) -> dict[str, dict[str, str]]:
    """ConfigMaps that kustomize makes of a folder: key to content."""
    made: dict[str, dict[str, str]] = {}
    for generator in kustomization(folder)["configMapGenerator"]:
        files = {Path(name).name: (folder / name).read_text() for name in generator.get("files", ())}
        literals = dict(literal.split("=", 1) for literal in generator.get("literals", ()))
        made[generator["name"]] = files | literals
    return made


def templates(folder: Path) -> dict[str, Any]:
    text = config_maps(folder)["stoker-pod-templates"]["pod-templates.yaml"]
    return {one["metadata"]["name"]: one for one in yaml.safe_load_all(text)}


def workloads() -> list[tuple[str, dict[str, Any]]]:
    """Names and Pod specs of what runs, those of the templates too."""
    found = [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in objects()
        if "template" in one.get("spec", {})
    ]
    for folder in FOLDERS:
        found += [(f"template {name}", one["template"]["spec"]) for name, one in templates(folder).items()]
    return found


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, spec in workloads():
        for container in spec["containers"]:
            yield name, spec, container


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Its environment; a value from elsewhere is "1", which is right for each."""
    mapped = [one["configMapRef"]["name"] for one in container.get("envFrom", ())]
    given = {key: value for name in mapped for key, value in config_maps(FOLDERS[0])[name].items()}
    return given | {one["name"]: one.get("value", "1") for one in container.get("env", ())}


def test_every_file_is_listed() -> None:
    for folder in FOLDERS:
        listed = kustomization(folder)
        files = {name for one in listed["configMapGenerator"] for name in one.get("files", ())}
        there = {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
        assert there == {*files, *listed["resources"], "kustomization.yaml"} - {"../../base"}


@pytest.mark.parametrize("one", objects(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_the_api_would_take_each_object(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_kustomize_makes_objects_of_it(folder: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    made = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in made:
        kubernetes_validate.validate(one, VERSION, strict=True)
        assert one["metadata"].get("namespace", "stoker") == "stoker"
    [config] = [one for one in made if one["metadata"]["name"] == "stoker-config"]
    assert config["data"] == config_maps(folder)["stoker-config"]
    assert "Secret" not in {one["kind"] for one in made}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_pods_of_the_autoscaler_are_valid_and_keep_passwords_in_secrets(folder: Path) -> None:
    found = templates(folder)
    for document in found.values():
        kubernetes_validate.validate(document, VERSION, strict=True)
    path = next(folder.rglob("stoker.yaml"))
    launched = [one for one in load([path]).profiles if one.launcher == "kubernetes"]
    assert launched
    for profile in launched:
        spec = Spec("s", "llamacpp", "file:///models/a.gguf")
        order = Order("r-1", "m", spec, profile, ("--name", "r-1"), {"STOKER_NATS_PASSWORD": "secret"})
        pod = make_pod("stoker", order, found.get(profile.name, found["default"])["template"])
        kubernetes_validate.validate(pod, VERSION, strict=True)
        assert "secret" not in [one.get("value") for one in pod["spec"]["containers"][0]["env"]]
        assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "stoker"  # or NATS is out of its reach


def test_programs_know_their_arguments_and_variables() -> None:
    seen = set()
    own = set(re.findall(r"STOKER_KUBERNETES_\w+", Path(kubernetes.__file__).read_text()))
    for _, _, container in containers():
        given, arguments = variables(container), container.get("args", [])
        if container["name"] == "nats":
            continue
        program = container["name"]
        if program == "worker":
            assert container.get("command", [])[-1:] in ([], ["stoker.services.worker"])
        else:
            assert arguments[0] == program
            arguments = arguments[1:]
        kind = KINDS[program]
        read_settings(kind, program, arguments, given)
        fields = {f"STOKER_{name.upper()}" for name in kind.__struct_fields__}
        assert {name for name in given if name.startswith("STOKER_")} <= fields | own
        seen.add(program)
    assert seen == KINDS.keys()


def test_each_is_the_nats_user_that_it_is_meant_to_be() -> None:
    users = {*services(), "operator"}
    for name, _, container in containers():
        if container["name"] == "nats":
            continue
        user = variables(container)["STOKER_NATS_USER"]
        meant = "operator" if container["name"] == "install-streams" else container["name"]
        assert user == meant and user in users, name
        for one in container["env"]:
            reference = one.get("valueFrom", {}).get("secretKeyRef", {})
            assert not one["name"].endswith("PASSWORD") or reference.get("name") == "stoker-passwords", name
            if one["name"] == "STOKER_NATS_PASSWORD":
                assert reference["key"] == user


def test_nats_starts_with_what_the_manifest_gives_it(tmp_path: Path) -> None:
    [nats] = [container for _, _, container in containers() if container["name"] == "nats"]
    secrets = {
        f"$({one['name']})": "12345" for one in nats["env"] if "secretKeyRef" in one.get("valueFrom", {})
    }
    given = {}
    for name, value in variables(nats).items():
        for reference, secret in secrets.items():
            value = value.replace(reference, secret)
        given[name] = value
    assert "$(" not in str(given)
    given["NATS_NAME"] = "nats-0"  # a field of the Pod
    assert {f"{user.upper()}_PASSWORD" for user in (*services(), "operator")} <= given.keys()
    config = ROOT / "deploy" / "nats" / Path(nats["command"][-1]).name
    checked = subprocess.run(
        [find_binary(), "--config", config, "-t"], env={**os.environ, **given, "NATS_STORE": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    addresses = config_maps(FOLDERS[0])["stoker-nats"]["STOKER_NATS"].split(",")
    assert [f"nats-{number}.nats" in address for number, address in enumerate(addresses)] == [True] * 3


def test_probes_ask_for_what_there_is() -> None:
    paths = {path for route in ROUTES for path in route.paths} | {"/metrics"}
    for name, _, container in containers():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        given = variables(container)
        if "metrics" in ports:
            assert str(ports["metrics"]) == given["STOKER_METRICS_PORT"], name
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind, {})
            for asked in (probe.get("httpGet"), probe.get("tcpSocket")):
                assert asked is None or asked["port"] in ports, name
            assert "httpGet" not in probe or probe["httpGet"]["path"] in paths, name
            command = " ".join(probe.get("exec", {}).get("command", ()))
            assert not command or given["NATS_HTTP"] in command
    for one in objects():
        if one["kind"] == "Service":
            [selected] = [
                c for n, _, c in containers() if n in (one["spec"]["selector"]["app.kubernetes.io/name"],)
            ]
            names = {port["name"] for port in selected["ports"]}
            assert {port.get("targetPort", port["name"]) for port in one["spec"]["ports"]} <= names


def test_nothing_runs_with_rights_that_it_does_not_need() -> None:
    for name, spec, container in containers():
        security = spec["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == 65534, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name  # a Service `stoker` makes STOKER_PORT
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec.get("automountServiceAccountToken") in (
            (True,) if name == "stoker-autoscaler" else (False, None)
        ), name
        if not name.startswith("template "):  # theirs are of the profiles
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
    [role] = [one for one in objects() if one["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]}
    ]


def test_what_is_mounted_is_there_and_workers_have_time_to_finish() -> None:
    claims = {one["metadata"]["name"] for one in objects() if one["kind"] == "PersistentVolumeClaim"}
    claimed = {
        one["metadata"]["name"] for o in objects() for one in o.get("spec", {}).get("volumeClaimTemplates", ())
    }
    for name, spec, container in containers():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | claimed, name
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name", "stoker-config") in config_maps(FOLDERS[0]), name
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "stoker-weights") in claims, name
        drain = variables(container).get("STOKER_DRAIN_TIMEOUT_S")
        assert drain is None or spec["terminationGracePeriodSeconds"] > float(drain), name
    assert TERMINATION_GRACE_S >= DRAIN_LIMIT_S


def test_selectors_select_and_one_of_several_always_stays() -> None:
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in objects()
        if one["kind"] in ("Deployment", "StatefulSet")
    }
    for one in objects():
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert one["spec"]["selector"]["matchLabels"].items() <= labels[one["metadata"]["name"]].items()
        if one["kind"] == "PodDisruptionBudget":
            wanted = one["spec"]["selector"]["matchLabels"].items()
            assert wanted <= labels[one["metadata"]["name"]].items()
    budgets = {one["metadata"]["name"] for one in objects() if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {"nats", "stoker-gateway", "stoker-scheduler"}
