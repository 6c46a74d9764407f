"""Files of deploy/: they parse, every variable is described, and the worker's job is the launcher's."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from stoker.schemas.catalog import ResourceProfile, Spec
from stoker.services.autoscaler.launchers.base import Order
from stoker.services.autoscaler.launchers.nomad import KILL_TIMEOUT_S, NomadLauncher
from stoker.services.bus.permissions import services
from tests.conftest import ROOT

NOMAD = sorted((ROOT / "deploy" / "nomad").glob("*.nomad.hcl"))


def plain(value: Any) -> Any:
    """Without the parser's marks: quotes around strings, blocks as lists."""
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.strip('"') if isinstance(value, str) else value


def read(path: Path) -> Any:
    with path.open() as file:
        return plain(hcl2.load(file))


@pytest.mark.parametrize("path", NOMAD, ids=lambda path: path.name)
def test_every_variable_is_declared_and_described(path: Path) -> None:
    declared = {name: body for block in read(path)["variable"] for name, body in block.items()}
    used = set(re.findall(r"\bvar\.(\w+)", path.read_text()))
    assert used == declared.keys()
    assert all(body.get("description") for body in declared.values())


def test_the_workers_job_is_the_launchers() -> None:
    [job] = read(ROOT / "deploy" / "nomad" / "worker.nomad.hcl")["job"]
    group = job["stoker-worker"]["group"][0]["worker"]
    task = group["task"][0]["worker"]
    profile = ResourceProfile("cpu", "nomad", cpu=2.0, memory_bytes=2048 * 10**6, image="i")
    order = Order("r", "m", Spec("s", "llamacpp", "file:///w/a.gguf"), profile, ("--name", "r"))
    launched = NomadLauncher("c", {}).job(order)
    theirs = launched["TaskGroups"][0]
    assert job["stoker-worker"]["type"] == launched["Type"]
    assert group["restart"][0] == {"attempts": theirs["RestartPolicy"]["Attempts"], "mode": "fail"}
    assert group["reschedule"][0] == {"attempts": 0, "unlimited": theirs["ReschedulePolicy"]["Unlimited"]}
    assert task["driver"] == theirs["Tasks"][0]["Driver"]
    assert task["kill_timeout"] == f"{KILL_TIMEOUT_S}s"
    config = theirs["Tasks"][0]["Config"]
    assert task["config"][0]["command"] == config["command"]
    assert task["config"][0]["network_mode"] == config["network_mode"]
    assert task["config"][0]["args"][:3] == config["args"][:3]
    assert config["volumes"] == ["/w/a.gguf:/w/a.gguf:ro"] and "volumes" in task["config"][0]
    assert theirs["Tasks"][0]["Resources"] == {"CPU": 2000, "MemoryMB": 2048}


def test_compose_starts_every_service_as_its_own_nats_user() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    users = {
        name: service["environment"].get("STOKER_NATS_USER")
        for name, service in compose["services"].items()
        if isinstance(service.get("environment"), dict)
    }
    assert users == {
        "nats": None, "init": "operator", "gateway": "gateway", "scheduler": "scheduler", "autoscaler": "autoscaler",
        "worker": "worker", "image-worker": "worker", "gpu-worker": "worker", "grafana": None,
    }  # fmt: skip


def test_every_password_is_in_the_example_of_the_environment() -> None:
    texts = "".join(path.read_text() for path in (ROOT / "deploy").glob("compose*.yaml"))
    written = set(re.findall(r"\$\{(\w+_PASSWORD):\?", texts))
    listed = set(re.findall(r"^(\w+)=", (ROOT / "deploy" / "env.example").read_text(), re.M))
    assert listed == written | {"COMPOSE_PROFILES"}


def test_no_password_may_be_missing_and_nats_reads_each_as_a_text() -> None:
    for path in (ROOT / "deploy").glob("compose*.yaml"):
        assert re.findall(r"\$\{\w+_PASSWORD\}", path.read_text()) == [], path
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    for name, value in compose["services"]["nats"]["environment"].items():
        assert not name.endswith("_PASSWORD") or (value.startswith('"') and value.endswith('"')), name


def environment_files(task: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Variables of a task's environment files: the Nomad variable that each is of, and what stands there."""
    found: dict[str, tuple[str, str]] = {}
    for template in task.get("template", ()):
        assert template["env"] is True and template["destination"].startswith("${NOMAD_SECRETS_DIR}/")
        path = re.search(r'nomadVar "([^"]+)"', template["data"].replace('\\"', '"'))
        assert path is not None
        lines = re.findall(r"^ *([A-Z_]+)=(.*)$", template["data"], re.M)
        found |= {name: (path[1], value.strip()) for name, value in lines}
    return found


def test_passwords_of_nomad_jobs_come_from_variables_that_the_task_alone_may_read() -> None:
    [job] = read(ROOT / "deploy" / "nomad" / "stoker.nomad.hcl")["job"]
    tasks = {name: body for task in job["stoker"]["group"][0]["stoker"]["task"] for name, body in task.items()}
    assert tasks.keys() == {"nats", "init", "gateway", "scheduler", "autoscaler"}
    for name, task in tasks.items():
        given = environment_files(task)
        assert not [key for key in task["env"][0] if key.endswith(("PASSWORD", "TOKEN"))], name
        assert {path for path, _ in given.values()} == {f"nomad/jobs/stoker/stoker/{name}"}
        if name != "nats":
            assert given["STOKER_NATS_PASSWORD"][1] == "{{ .password.Value | toJSON }}"
            assert task["env"][0]["STOKER_NATS_USER"] == ("operator" if name == "init" else name)
    users = {*services(), "operator"}
    assert {name: value for name, (_, value) in environment_files(tasks["nats"]).items()} == {
        f"{user.upper()}_PASSWORD": f"{{{{ .{user}.Value | toJSON | toJSON }}}}" for user in users
    }
    text = (ROOT / "deploy" / "nomad" / "stoker.nomad.hcl").read_text()
    put = dict(re.findall(r"nomad var put (\S+) (.*)", text))
    for name, task in tasks.items():  # the commands at the top make what the tasks read
        read_items = re.findall(r"\{\{ \.(\w+)\.Value", str(task["template"]))
        made = re.findall(r"(\w+)=…", put[f"nomad/jobs/stoker/stoker/{name}"])
        assert sorted(read_items) == sorted(made), name
    assert "stoker_worker_password=" in put["nomad/jobs"]


def test_a_launched_workers_password_is_the_variable_of_the_one_by_hand() -> None:
    [job] = read(ROOT / "deploy" / "nomad" / "worker.nomad.hcl")["job"]
    task = job["stoker-worker"]["group"][0]["worker"]["task"][0]["worker"]
    profile = ResourceProfile("cpu", "nomad", image="i")
    order = Order("r", "m", Spec("s", "llamacpp", ""), profile, (), {"STOKER_NATS_PASSWORD": "secret"})
    launcher = NomadLauncher("c", {"STOKER_NOMAD_WORKER_VARIABLE": "nomad/jobs"})
    [launched] = launcher.job(order)["TaskGroups"][0]["Tasks"][0]["Templates"]
    [template] = task["template"]
    by_hand = template["data"].replace("${var.password_variable}", "nomad/jobs").replace('\\"', '"')
    wanted = [line.strip() for line in launched["EmbeddedTmpl"].splitlines()]
    assert [line for line in map(str.strip, by_hand.splitlines()) if line in wanted] == wanted
    assert template["destination"] == launched["DestPath"]
    assert (template["env"], template["change_mode"]) == (launched["Envvars"], launched["ChangeMode"])
    assert "secret" not in str(launched)


def test_nomad_keeps_what_nats_has_stored_when_the_job_is_placed_anew() -> None:
    [job] = read(ROOT / "deploy" / "nomad" / "stoker.nomad.hcl")["job"]
    group = job["stoker"]["group"][0]["stoker"]
    assert group["volume"][0]["nats"]["type"] == "host"
    nats = next(task["nats"] for task in group["task"] if "nats" in task)
    assert nats["volume_mount"][0]["destination"] == nats["env"][0]["NATS_STORE"] == "/data"


def test_the_variants_of_compose_name_services_that_there_are() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"].keys()
    for variant, more in (("tls", set()), ("cluster", {"nats-2", "nats-3"})):
        named = yaml.safe_load((ROOT / f"deploy/compose.{variant}.yaml").read_text())["services"].keys()
        assert named - services == more
        using_nats = services - {"prometheus", "grafana", "jaeger"}
        assert using_nats <= named


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_units_are_exposed_to_little(tmp_path: Path) -> None:
    unit = tmp_path / "stoker-gateway.service"
    text = (ROOT / "deploy" / "systemd" / "stoker@.service").read_text()
    unit.write_text(text.replace("%i", "gateway"))
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"exposure level for \S+: ([\d.]+)", told)
    assert found is not None, told[-300:]
    assert float(found[1]) <= 3.0
