"""`kind: Model` documents: document 004 as written, merging, and errors that say where a field belongs."""

from pathlib import Path

import pytest

from stoker.schemas.catalog import LoadBalancing
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import Configuration, load

DOCUMENT_004 = """\
kind: Model
metadata:
  name: llama-3.1
spec:
  # NOTE: Anything field set in .spec will apply to all .specs[].
  # If a field is set in both .spec and .specs[], the field set in .specs[] will take precedence.
  env:
    FOO: bar

  # NOTE: Some fields from .spec are not allowed in .specs[]
  # For instance:
  # .features (should apply to all)
  # .loadBalancing (should apply to all)
  features: [TextGeneration]
  loadBalancing:
    strategy: PrefixHash
    prefixHash:
      meanLoadPercentage: 125
      replication: 200
      prefixChatLength: 100
specs:
- name: gpu-l4-70b
  url: hf://neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8
  engine: VLLM
  args:
    - --max-model-len=32768
    - --max-num-batched-token=32768
    - --max-num-seqs=512
    - --gpu-memory-utilization=0.9
    - --pipeline-parallel-size=4
    - --tensor-parallel-size=2
    - --enable-prefix-caching
    - --enable-chunked-prefill=false
    - --disable-log-requests
    - --kv-cache-dtype=fp8
    - --enforce-eager
  env:
    VLLM_ATTENTION_BACKEND: FLASHINFER
  # NOTE: Target requests will be used to weight backends when load balancing
  # in addition to how it is used today (it is only considered for autoscaling today).
  targetRequests: 500
  resourceProfile: nvidia-gpu-l4:8
- name: tpu-v5e-8b
  url: hf://meta-llama/Meta-Llama-3.1-8B-Instruct
  engine: VLLM
  args:
    - --disable-log-requests
    - --swap-space=8
    - --tensor-parallel-size=4
    - --num-scheduler-steps=4
    - --max-model-len=8192
    - --distributed-executor-backend=ray
  resourceProfile: google-tpu-v5e-2x2:4
  # NOTE: Simulataneous scale-up could be supported via the addition of another field that
  # indicates that this spec should be scaled with the previous one.
  # TBD: Not sure on the field name yet, this should likely be a followup-feature, not a part
  # of the initial implementation.
  simultaneousScaleUpGroup: foo
- name: cpu-3b
  engine: OLlama
  url: ollama://llama-3.1-3b
  args:
  - ...
  resourceProfile: cpu:2
  # AVOIDING COLD STARTS #
  minReplicas: 1
  # Setting targetRequests to 0 means that this spec should receive 0 load when there is at least
  # one other replica.
  # This also means it is OK to scale this replica down to 0 when
  # there are other replicas running.
  # (And scale back up to minReplicas before scaling all others to 0).
  targetRequests: 0
  ########################
"""
MODEL = "kind: Model\nmetadata: {name: m}\n"


def read(folder: Path, text: str) -> Configuration:
    path = folder / "m.yaml"
    path.write_text(text)
    return load([path], {})


def test_document_004_loads_as_written(tmp_path: Path) -> None:
    found = read(tmp_path, DOCUMENT_004)
    [model] = found.models
    assert (model.name, model.features) == ("llama-3.1", ("TextGeneration",))
    assert model.load_balancing == LoadBalancing("PrefixHash", 125, 200, 100)
    gpu, tpu, cpu = model.specs
    assert [spec.name for spec in model.specs] == ["gpu-l4-70b", "tpu-v5e-8b", "cpu-3b"]
    assert gpu.env == {"FOO": "bar", "VLLM_ATTENTION_BACKEND": "FLASHINFER"}
    assert tpu.env == {"FOO": "bar"}
    assert (gpu.engine, gpu.profile, gpu.profile_count, gpu.target_requests) == (
        "vllm",
        "nvidia-gpu-l4",
        8,
        500,
    )
    assert gpu.args[0] == "--max-model-len=32768"
    assert len(gpu.args) == 11
    assert (tpu.scale_group, tpu.profile_count, tpu.target_requests) == ("foo", 4, 100)
    assert (cpu.engine, cpu.min_replicas, cpu.is_standby, cpu.args) == ("ollama", 1, True, ("...",))
    assert len(found.warnings) == 3
    assert "spec cpu-3b: no resource profile 'cpu' is defined" in found.warnings[2]


def test_specs_may_stand_in_spec_and_a_single_one_needs_none(tmp_path: Path) -> None:
    text = (
        MODEL + "spec:\n  engine: LlamaCpp\n  specs:\n  - {name: a, url: file:///a}\n  - {name: b, url: /b}\n"
    )
    assert [spec.name for spec in read(tmp_path, text).models[0].specs] == ["a", "b"]
    [spec] = read(tmp_path, MODEL + "spec: {engine: LLAMACPP, url: file:///a}\n").models[0].specs
    assert (spec.name, spec.engine, spec.min_replicas, spec.scale_down_delay_s) == (
        "default",
        "llamacpp",
        0,
        30.0,
    )


def test_a_field_set_in_a_spec_wins(tmp_path: Path) -> None:
    text = MODEL + (
        "spec: {engine: VLLM, url: hf://a/b, targetRequests: 7, args: [--x], env: {A: '1', B: '2'}}\n"
        "specs:\n- {name: a, targetRequests: 9, args: [--y], env: {B: '3'}}\n- {name: b}\n"
    )
    a, b = read(tmp_path, text).models[0].specs
    assert (a.target_requests, a.args, a.env) == (9, ("--y",), {"A": "1", "B": "3"})
    assert (b.target_requests, b.args, b.env) == (7, ("--x",), {"A": "1", "B": "2"})


def test_profiles_say_who_launches(tmp_path: Path) -> None:
    text = (
        "resourceProfiles:\n  cpu: {launcher: process, inventory: 3, memory: 2Gi}\n---\n"
        "kind: ResourceProfile\nmetadata: {name: gpu}\n"
        "spec: {launcher: nomad, image: w, gpu: {count: 1}}\n---\n"
        + MODEL
        + "spec: {engine: VLLM, url: hf://a/b}\n"
        "specs:\n- {name: a, resourceProfile: 'cpu:2'}\n- {name: b, resourceProfile: gpu}\n- {name: c}\n"
    )
    found = read(tmp_path, text)
    assert [spec.launcher for spec in found.models[0].specs] == ["process", "nomad", ""]
    assert [spec.profile_count for spec in found.models[0].specs] == [2, 1, 1]
    cpu, gpu = found.profiles
    assert (cpu.inventory, cpu.memory_bytes, gpu.launcher) == (3, 2 * 1024**3, "nomad")
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            MODEL + "spec: {}\nspecs:\n- name: a\n  features: [TextGeneration]\n",
            6,
            "write it once, as spec.features",
        ),
        (MODEL + "specs:\n- name: a\n  loadBalancing: {}\n", 5, "applies to the whole model"),
        (MODEL + "spec:\n  engin: VLLM\n", 4, "did you mean 'engine'?"),
        (MODEL + "specs:\n- name: a\n  targetRequest: 1\n", 5, "did you mean 'targetRequests'?"),
        (MODEL + "specs:\n- {name: a, engine: TGI, url: x}\n", 4, "unknown engine 'TGI'; there are VLLM"),
        (MODEL + "specs:\n- {name: a, engine: VLLM}\n", 4, "missing required field: url"),
        (MODEL + "specs:\n- {engine: VLLM, url: hf://a/b}\n", 4, "missing required field: name"),
        (MODEL + "specs:\n- &a {name: a, engine: VLLM, url: hf://a/b}\n- *a\n", 4, "'a' is there already"),
        (MODEL + "specs: []\n", 3, "must be a list of 1 to"),
        (MODEL + "spec: {engine: VLLM, url: x, minReplicas: -1}\n", 3, "must be 0 or more"),
        (MODEL + "spec: {engine: VLLM, url: x, minReplicas: 3, maxReplicas: 2}\n", 3, "at least minReplicas"),
        (MODEL + "spec: {engine: VLLM, url: x, resourceProfile: 'gpu:0'}\n", 3, "must be 1 or more"),
        (MODEL + "spec: {engine: VLLM, url: x, features: [Dance]}\n", 3, "unknown feature 'Dance'"),
        (MODEL + "spec: {engine: VLLM, url: x, loadBalancing: {strategy: Random}}\n", 3, "Invalid enum value"),
        (
            MODEL + "spec:\n  engine: VLLM\n  url: x\n  loadBalancing:\n    prefixHash:\n"
            "      meanLoadPercentage: 99\n",
            8,
            "must be at least 100",
        ),
        ("kind: Model\nspec: {}\n", 1, "missing required field: metadata.name"),
        ("kind: Modell\n", 1, "unknown kind 'Modell'; there are Model, ResourceProfile"),
        ("resourceProfiles:\n  a: {launcher: docker}\n", 2, "the launcher docker needs an image"),
        ("resourceProfiles:\n  a: {launcher: mesos}\n", 2, "Invalid enum value 'mesos'"),
        ("resourceProfiles:\n  a: {memory: huge}\n", 2, "'huge' is not a size"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_where_it_belongs(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    with pytest.raises(ConfigurationError) as found:
        read(tmp_path, text)
    assert str(found.value).startswith(f"{tmp_path}/m.yaml:{line}: "), found.value
    assert says in str(found.value)
