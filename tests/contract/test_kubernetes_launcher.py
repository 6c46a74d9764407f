"""Workers as Pods, against a server that follows the Kubernetes API's document."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from stoker.schemas.catalog import Gpu, ResourceProfile, Spec
from stoker.services.autoscaler.launchers.base import LaunchError, Misconfigured, Order, OutOfStock, Unavailable
from stoker.services.autoscaler.launchers.kubernetes import KubernetesLauncher
from stoker.services.autoscaler.launchers.pods import DEFAULT_TEMPLATE, TERMINATION_GRACE_S, make_pod
from tests.contract.launcher_conformance import LauncherConformance, order, until
from tests.fixtures.kubernetes_server import TOKEN, KubernetesStub
from tests.fixtures.serving import serving

PROFILE = ResourceProfile("cpu", "kubernetes", cpu=0.5, memory_bytes=256 * 10**6, image="stoker-worker")
GPU = ResourceProfile("gpu", "kubernetes", 1.0, 10**9, Gpu(1), "image:1")

TEMPLATES = """\
apiVersion: v1
kind: PodTemplate
metadata: {name: default}
template:
  metadata: {labels: {team: red}}
  spec:
    tolerations: [{key: nvidia.com/gpu, operator: Exists}]
    nodeSelector: {pool: inference}
    containers:
      - name: worker
        resources: {requests: {ephemeral-storage: 1Gi}}
        env:
          - {name: STOKER_NATS_PASSWORD, valueFrom: {secretKeyRef: {name: stoker-nats, key: worker}}}
        volumeMounts: [{name: weights, mountPath: /models, readOnly: true}]
    volumes: [{name: weights, persistentVolumeClaim: {claimName: weights}}]
---
apiVersion: v1
kind: PodTemplate
metadata: {name: plain}
template: {spec: {containers: [{name: worker}, {name: beside, image: proxy}]}}
"""


def template(name: str = "default") -> dict[str, Any]:
    documents = {one["metadata"]["name"]: one["template"] for one in yaml.safe_load_all(TEMPLATES)}
    found: dict[str, Any] = documents[name]
    return found


class TestKubernetesLauncher(LauncherConformance):
    profile = PROFILE

    @pytest.fixture(autouse=True)
    def _fixtures(self, tmp_path: Path) -> Iterator[None]:
        self.stub = KubernetesStub(gpus=1)
        self.token = tmp_path / "token"
        self.token.write_text(TOKEN + "\n")
        self.templates = tmp_path / "templates.yaml"
        with serving(self.stub.app()) as url:
            self.environment = {
                "STOKER_KUBERNETES_URL": url,
                "STOKER_KUBERNETES_TOKEN_FILE": str(self.token),
                "STOKER_KUBERNETES_NAMESPACE": "default",
            }
            self.make = lambda: KubernetesLauncher("test", self.environment)

            async def end(replica: str) -> None:
                self.stub.process(f"stoker-test-{replica}").send_signal(signal.SIGKILL)

            self.end = end
            yield
            self.stub.close()

    def with_environment(self, **more: str) -> KubernetesLauncher:
        return KubernetesLauncher("test", self.environment | more)

    async def test_a_pod_that_no_node_has_room_for_is_a_stock_out_and_leaves_nothing(self) -> None:
        async with self.opened() as launcher:
            await launcher.launch(order("r-1", GPU))
            with pytest.raises(OutOfStock, match="cannot place it: 0/1 nodes are available: 1 Insufficient"):
                await launcher.launch(order("r-2", GPU))
            assert await self.states(launcher) == {"r-1": "running"}

    async def test_where_nodes_are_added_it_waits_for_one(self) -> None:
        launcher = self.with_environment(STOKER_KUBERNETES_ADDS_NODES="true")
        two = ResourceProfile("gpu", "kubernetes", gpu=Gpu(2), image="i")
        await launcher.launch(order("r-1", two))
        await until(launcher, lambda seen: seen["r-1"].state == "pending" and self.stub.version > 2)
        self.stub.gpus = 2
        self.stub.place("stoker-test-r-1")
        await until(launcher, lambda seen: seen["r-1"].state == "running")
        await self.cleared(launcher)
        await launcher.close()

    async def test_a_quota_that_is_used_up_is_a_stock_out(self) -> None:
        self.stub.quota = 0
        async with self.opened() as launcher:
            with pytest.raises(OutOfStock, match=r"exceeded quota: pods, .* \(403\)"):
                await launcher.launch(order("r-1", PROFILE))

    async def test_a_list_of_several_pages_is_whole_though_a_page_expires(self) -> None:
        async with self.opened() as launcher:
            for number in range(5):
                await launcher.launch(order(f"r-{number}", PROFILE))
            self.stub.expires = 1
            seen = await until(launcher, lambda seen: len(seen) == 5)
            assert set(seen) == {f"r-{number}" for number in range(5)}
            assert self.stub.expires == 0
            self.stub.expires = 10
            with pytest.raises(Unavailable, match="expired while it was read"):
                await self.make().look()
            self.stub.expires = 0

    async def test_the_list_is_read_again_only_after_a_change(self) -> None:
        async with self.opened() as launcher:
            await launcher.launch(order("r-1", PROFILE))
            await until(launcher, lambda seen: seen["r-1"].state == "running")
            lists = self.stub.lists
            assert await self.states(launcher) == await self.states(launcher) == {"r-1": "running"}
            assert self.stub.lists == lists
            await self.end("r-1")
            seen = await until(launcher, lambda seen: seen["r-1"].state == "ended")
            assert seen["r-1"].message == "its container ended with status 137: Error"
            assert self.stub.lists == lists + 1

    async def test_an_image_that_does_not_come_has_ended_the_replica(self) -> None:
        self.stub.waiting = "ImagePullBackOff"
        async with self.opened() as launcher:
            await launcher.launch(order("r-1", PROFILE))
            seen = await until(launcher, lambda seen: seen["r-1"].state == "ended")
            assert seen["r-1"].message == "it does not start: ImagePullBackOff, Back-off pulling image"

    async def test_a_pod_that_is_being_deleted_is_there_until_it_has_ended(self) -> None:
        async with self.opened() as launcher:
            await launcher.launch(order("r-1", PROFILE))
            await until(launcher, lambda seen: seen["r-1"].state == "running")
            self.stub.signals.clear()  # what it does lasts longer than the grace
            await launcher.stop("r-1", 60.0)
            assert self.stub.pods["stoker-test-r-1"]["metadata"]["deletionGracePeriodSeconds"] == 60
            assert await self.states(launcher) == {"r-1": "running"}
            await launcher.stop("r-1", 0.0)
            assert self.stub.pods["stoker-test-r-1"]["metadata"]["deletionGracePeriodSeconds"] == 1
            assert await self.states(launcher) == {"r-1": "running"}
            await until(launcher, lambda seen: seen == {})

    async def test_pods_of_others_are_not_ours(self) -> None:
        async with self.opened() as launcher:
            other = KubernetesLauncher("other", self.environment)
            await other.launch(order("r-1", PROFILE))
            assert await self.states(launcher) == {}
            assert self.stub.pods["stoker-other-r-1"]["metadata"]["labels"]["stoker-cluster"] == "other"
            await self.cleared(other)
            await other.close()

    async def test_a_token_that_is_replaced_is_read_again(self) -> None:
        async with self.opened() as launcher:
            assert await launcher.look() == {}
            self.stub.token = "the-next"
            with pytest.raises(Unavailable, match=r"Kubernetes: Unauthorized \(401\)"):
                await launcher.look()
            self.token.write_text("the-next")
            assert await launcher.look() == {}
            self.token.unlink()
            with pytest.raises(Unavailable, match=r"the token .* cannot be read: No such file"):
                await launcher.look()
            self.token.write_text("the-next")

    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_a_server_in_trouble_means_that_nothing_is_known(self, status: int) -> None:
        launcher = self.make()
        self.stub.failing = status
        with pytest.raises(Unavailable, match=f"told to fail .{status}."):
            await launcher.launch(order("r-1", PROFILE))
        with pytest.raises(Unavailable, match=f"told to fail .{status}."):
            await launcher.look()
        with pytest.raises(Unavailable):
            await launcher.stop("r-1", 1.0)
        await launcher.close()

    async def test_what_is_not_allowed_or_not_valid_names_the_remedy(self) -> None:
        launcher = self.with_environment(STOKER_KUBERNETES_NAMESPACE="others")
        with pytest.raises(Misconfigured, match=r"pods is forbidden: .* the Role in deploy/kubernetes"):
            await launcher.launch(order("r-1", PROFILE))
        with pytest.raises(Unavailable, match="pods is forbidden"):
            await launcher.look()
        await launcher.close()
        async with self.opened() as ours:
            with pytest.raises(Misconfigured, match=r"Required value .422.; mend the resource profile"):
                await ours.launch(order("r-1", ResourceProfile("cpu", "kubernetes")))

    async def test_templates_are_read_for_every_launch_and_errors_in_them_are_said(self) -> None:
        launcher = self.with_environment(STOKER_KUBERNETES_TEMPLATES=str(self.templates))
        with pytest.raises(Misconfigured, match=r"STOKER_KUBERNETES_TEMPLATES: .* No such file"):
            await launcher.launch(order("r-1", PROFILE))
        for wrong in ("kind: Pod", "kind: PodTemplate\nmetadata: {name: cpu}", "- x", "{"):
            self.templates.write_text(wrong)
            if wrong == "kind: Pod":
                continue  # another kind's documents may stand beside
            with pytest.raises(Misconfigured, match="has something else than PodTemplates"):
                await launcher.launch(order("r-1", PROFILE))
        self.templates.write_text("kind: PodTemplate\nmetadata: {name: cpu}\ntemplate: []\n")
        with pytest.raises(Misconfigured, match="the template for cpu is empty"):
            await launcher.launch(order("r-1", PROFILE))
        self.templates.write_text(TEMPLATES)
        await launcher.launch(order("r-1", PROFILE))
        assert self.stub.created[-1]["metadata"]["labels"]["team"] == "red"
        await self.cleared(launcher)
        await launcher.close()

    async def test_a_cluster_that_cannot_be_named_and_no_kubernetes_are_said(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="small letters, digits"):
            KubernetesLauncher("My_Cluster", self.environment)
        with pytest.raises(Unavailable, match="no Kubernetes is here"):
            KubernetesLauncher("test", {})
        missing = {"KUBERNETES_SERVICE_HOST": "::1", "STOKER_KUBERNETES_CA_FILE": str(tmp_path / "none")}
        with pytest.raises(Unavailable, match="there is no file"):
            KubernetesLauncher("test", missing)

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
    async def test_the_clusters_own_authority_is_trusted_and_no_other(self, tmp_path: Path) -> None:
        files = {name: tmp_path / f"{name}.pem" for name in ("key", "certificate", "other_key", "other")}
        for key, made in (("key", "certificate"), ("other_key", "other")):
            await anyio.run_process(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", str(files[key]), "-out", str(files[made]), "-days", "2", "-subj", "/CN=kubernetes",
                 "-addext", "subjectAltName=IP:127.0.0.1"],
            )  # fmt: skip
        with serving(self.stub.app(), ssl_certfile=files["certificate"], ssl_keyfile=files["key"]) as url:
            host, _, port = url.removeprefix("https://").partition(":")
            inside = {
                "KUBERNETES_SERVICE_HOST": host,
                "KUBERNETES_SERVICE_PORT": port,
                "STOKER_KUBERNETES_TOKEN_FILE": str(self.token),
                "STOKER_KUBERNETES_CA_FILE": str(files["certificate"]),
            }
            launcher = KubernetesLauncher("test", inside)
            assert await launcher.look() == {}
            await launcher.close()
            stranger = KubernetesLauncher("test", inside | {"STOKER_KUBERNETES_CA_FILE": str(files["other"])})
            with pytest.raises(Unavailable, match=r"Kubernetes does not answer: .*certificate"):
                await stranger.look()
            await stranger.close()


def order_for(profile: ResourceProfile, url: str = "") -> Order:
    return Order(
        "r-1",
        "m",
        Spec("s", "llamacpp", url),
        profile,
        ("--name", "r-1"),
        {"A": "1", "STOKER_NATS_PASSWORD": "x"},
    )


def test_a_pod_says_what_the_profile_needs_and_how_the_template_wants_it() -> None:
    profile = ResourceProfile(
        "a.Profile_of_one", "kubernetes", 2.0, 4 * 10**9, Gpu(2, "NVIDIA-L4"), "image:1",
        datacenters=("z1", "z2"), constraints={"kubernetes.io/arch": "amd64"},
    )  # fmt: skip
    given = template()
    pod = make_pod("c", order_for(profile, "file:///models/a.gguf"), given)
    assert given == template()  # it is read, not written
    metadata, spec = pod["metadata"], pod["spec"]
    assert metadata["name"] == "stoker-c-r-1"
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "stoker-worker",
        "team": "red",
        "stoker-cluster": "c",
    }
    assert metadata["annotations"]["stoker-profile"] == "a.Profile_of_one"
    assert spec["nodeSelector"] == {
        "pool": "inference", "kubernetes.io/arch": "amd64", "nvidia.com/gpu.product": "NVIDIA-L4",
    }  # fmt: skip
    zones = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z1", "z2"]}
    wanted = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert wanted == {"nodeSelectorTerms": [{"matchExpressions": [zones]}]}
    [container] = spec["containers"]
    assert container["image"] == "image:1"
    assert container["command"] == ["python", "-P", "-m", "stoker.services.worker"]
    assert container["args"] == ["--name", "r-1"]
    assert container["resources"] == {
        "requests": {"cpu": "2000m", "memory": "4000000000", "ephemeral-storage": "1Gi"},
        "limits": {"memory": "4000000000", "nvidia.com/gpu": 2},
    }
    assert [one["name"] for one in container["env"]] == ["A", "STOKER_NATS_PASSWORD"]
    assert "valueFrom" in container["env"][1]  # the template's: no password stands in a Pod
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Never", TERMINATION_GRACE_S)
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False


def test_weights_that_no_volume_of_the_pod_has_are_an_error_with_the_remedy() -> None:
    for name in ("/weights/a.gguf", "/models-2/a.gguf"):
        with pytest.raises(Misconfigured, match=f"{name} are in no volume .* 'cpu' or 'default' a volumeMount"):
            make_pod("c", order_for(PROFILE, f"file://{name}"), template())


def test_containers_beside_the_worker_stay_and_without_a_template_it_is_restricted() -> None:
    pod = make_pod("c", order_for(PROFILE), template("plain"))
    assert [one["name"] for one in pod["spec"]["containers"]] == ["worker", "beside"]
    assert pod["spec"]["containers"][1] == {"name": "beside", "image": "proxy"}
    [container] = make_pod("c", order_for(PROFILE), DEFAULT_TEMPLATE)["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "STOKER_NATS_PASSWORD", "value": "x"}]
    alone = make_pod("c", order_for(PROFILE), {"metadata": None, "spec": {"containers": [{"name": "beside"}]}})
    assert [one["name"] for one in alone["spec"]["containers"]] == ["worker", "beside"]
    assert issubclass(Misconfigured, LaunchError)
