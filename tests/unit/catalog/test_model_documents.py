"""`kind: Model` and `kind: ResourceProfile`: bounds, merging, balancing; beside the examples of test_multi_spec.py."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Adapter, Gpu, LoadBalancing, Model, ResourceProfile, Spec
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import Configuration, load
from stoker.services.catalog.multi_spec import MAX_SPECS, MERGED_MAPS, MODEL_FIELDS, merged, with_launchers

HEAD = "kind: Model\nmetadata: {name: m}\n"


def read(folder: Path, text: str) -> Configuration:
    path = folder / "m.yaml"
    path.write_text(text)
    return load([path], {})


def model(folder: Path, spec: str) -> Model:
    [found] = read(folder, f"{HEAD}spec: {{engine: VLLM, url: hf://a/b, {spec}}}\n").models
    return found


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        read(folder, text)
    return str(error.value).removeprefix(f"{folder}/m.yaml:")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("runTimeoutSeconds: soon", "spec.runTimeoutSeconds: Expected `float | null`, got `str`"),
        ("runTimeoutSeconds: [1]", "spec.runTimeoutSeconds: Expected `float | null`, got `array`"),
        ("runTimeoutSeconds: -1", "spec.runTimeoutSeconds: must be more than 0, not -1"),
        ("runTimeoutSeconds: 0", "spec.runTimeoutSeconds: must be more than 0, not 0"),
        ("defaults: 3", "spec.defaults: Expected `object | null`, got `int`"),
        ("defaults: {clip_skip: 99}", "spec.defaults.clip_skip: Expected `int` <= 24"),
        ("defaults: [a]", "spec.defaults: Expected `object | null`, got `array`"),
        ("targetRequests: -1", "spec.targetRequests: must be 0 or more, not -1"),
        ("scaleDownDelaySeconds: -0.5", "spec.scaleDownDelaySeconds: must be 0 or more, not -0.5"),
        ("scaleDownDelaySeconds: .inf", "spec.scaleDownDelaySeconds: must be at most"),
        ("runTimeoutSeconds: .inf", "spec.runTimeoutSeconds: must be finite, not inf"),
        ("slots: 100001", "spec.slots: must be at most 100000, not 100001"),
        ("slots: -1", "spec.slots: must be 0 or more, not -1"),
        ("maxReplicas: 0", "spec.maxReplicas: must be at least minReplicas and 1, not 0"),
        ("memory: -5", "spec.memory: '-5' is not a size"),
        ("memory: big", "spec.memory: 'big' is not a size"),
        ("args: --x", "spec.args: Expected `array`, got `str`"),
        ("args: [1]", "spec.args: Expected `str`, got `int`"),
        ("env: {A: 1}", "spec.env: Expected `str`, got `int`"),
        ("adapters: [{name: a}]", "spec.adapters: Object missing required field `url`"),
        ("features: []", "spec.features: must be a list of TextGeneration"),
        ("features: TextGeneration", "spec.features: must be a list of TextGeneration"),
        ("features: [TextGeneration, [x]]", "spec.features[1]: unknown feature ['x']"),
        ("loadBalancing: 3", "spec.loadBalancing: must be a mapping of prefixHash, strategy, not 3"),
        ("loadBalancing: {prefixHash: 3}", "spec.loadBalancing.prefixHash: Expected `object`, got `int`"),
        ("loadBalancing: {prefixHash: {replication: 0}}", "prefixHash.replication: must be 1 or more, not 0"),
        ("loadBalancing: {prefixHash: {prefixCharLength: -1}}", "prefixCharLength: must be 1 or more, not -1"),
        ("loadBalancing: {prefixHash: {meanLoad: 1}}", "did you mean 'meanLoadFactor'?"),
        ("specs: 3", "spec.specs: must be a list of 1 to"),
        ("specs: [3]", "spec.specs[0]: must be a mapping, not 3"),
        ("name: ''", "spec.name: a name must not be empty"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(tmp_path: Path, spec: str, says: str) -> None:
    assert says in refused(tmp_path, f"{HEAD}spec: {{engine: VLLM, url: hf://a/b, {spec}}}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: Model\nmetadata: {name: ''}\nspec: {}\n", "metadata.name: a name must not be empty"),
        (
            "kind: Model\nmetadata: {name: 3}\nspec: {}\n",
            "metadata.name: missing required field: metadata.name",
        ),
        ("kind: Model\nmetadata: m\nspec: {}\n", "metadata.name: missing required field: metadata.name"),
        (HEAD + "spec: [a]\n", "3: spec: must be a mapping of"),
        (HEAD + "spek: {}\n", "spek: unknown key; did you mean"),
        (HEAD, "Object missing required field `engine`"),
        (
            HEAD + "spec: {engine: VLLM, url: x, specs: [{name: a}]}\nspecs: [{name: b}]\n",
            "spec.specs: specs stand here and beside spec; write them in one place",
        ),
    ],
)
def test_a_document_of_another_shape_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


def test_the_most_specs_are_possible_and_one_more_is_not(tmp_path: Path) -> None:
    def text(count: int) -> str:
        specs = "".join(f"- {{name: s{number}}}\n" for number in range(count))
        return f"{HEAD}spec: {{engine: VLLM, url: hf://a/b}}\nspecs:\n{specs}"

    assert len(read(tmp_path, text(MAX_SPECS)).models[0].specs) == MAX_SPECS
    assert f"specs: must be a list of 1 to {MAX_SPECS} specs" in refused(tmp_path, text(MAX_SPECS + 1))


def test_everything_that_a_spec_says_is_in_it(tmp_path: Path) -> None:
    found = model(
        tmp_path,
        "args: [--a], env: {A: b}, options: {start_timeout_s: 1}, resourceProfile: 'ab:3', minReplicas: 2, maxReplicas: 2, "
        "targetRequests: 0, scaleDownDelaySeconds: 1.5, simultaneousScaleUpGroup: g, memory: 1KiB, slots: 4, "
        "adapters: [{name: l, url: lora.bin}], defaults: {top_k: 1}, runTimeoutSeconds: 7, owner: me",
    )
    assert (found.defaults, found.run_timeout_s) == ({"top_k": 1}, 7.0)
    assert found.specs == (
        Spec(
            "default", "vllm", "hf://a/b", "ab", {"start_timeout_s": 1}, (Adapter("l", f"file://{tmp_path}/lora.bin"),),
            args=("--a",), env={"A": "b"}, profile_count=3, min_replicas=2, max_replicas=2, target_requests=0,
            scale_down_delay_s=1.5, scale_group="g", memory_bytes=1024, slots=4,
        ),
    )  # fmt: skip
    assert found.specs[0].is_standby


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", LoadBalancing()),
        ("strategy: PrefixHash", LoadBalancing("PrefixHash")),
        ("prefixHash: {meanLoadFactor: 150}", LoadBalancing(mean_load_percentage=150)),
        ("prefixHash: {meanLoadPercentage: 100}", LoadBalancing(mean_load_percentage=100)),
        ("prefixHash: {prefixChatLength: 7}", LoadBalancing(prefix_char_length=7)),
        ("prefixHash: {replication: 1}", LoadBalancing(replication=1)),
    ],
)
def test_balancing_is_read_in_both_spellings(tmp_path: Path, written: str, expected: LoadBalancing) -> None:
    assert model(tmp_path, f"loadBalancing: {{{written}}}").load_balancing == expected


KEYS = st.sampled_from(["env", "options", "url", "args", "features", "defaults", "owner", "specs"])
VALUES = st.one_of(st.integers(), st.dictionaries(st.sampled_from("ABC"), st.integers(0, 9), max_size=3))


@given(common=st.dictionaries(KEYS, VALUES), entry=st.dictionaries(KEYS, VALUES))
def test_what_a_spec_sets_wins_and_maps_are_merged_by_key(
    common: dict[str, Any], entry: dict[str, Any]
) -> None:
    before = (repr(common), repr(entry))
    found = merged(common, entry)
    assert (repr(common), repr(entry)) == before
    for key, value in entry.items():
        if key in MERGED_MAPS and isinstance(value, dict) and isinstance(common.get(key), dict):
            assert found[key] == {**common[key], **value}
        else:
            assert found[key] == value
    inherited = found.keys() - entry.keys()
    assert inherited == common.keys() - entry.keys() - MODEL_FIELDS - {"specs"}
    assert all(found[key] == common[key] for key in inherited)


def test_a_function_is_a_custom_handler_in_a_document(tmp_path: Path) -> None:
    [found] = read(
        tmp_path, "kind: Model\nmetadata: {name: 'a:f'}\nspec: {engine: Function, features: [Function]}\n"
    ).models
    assert (found.specs[0].engine, found.specs[0].url, found.features) == ("custom", "", ("Function",))


@pytest.mark.parametrize(
    ("spec", "profile", "count"),
    [
        ("resourceProfile: a", "a", 1),
        ("resourceProfile: 'a:2'", "a", 2),
        ("slots: 0", "", 1),
    ],
)
def test_a_profile_may_have_a_count_behind_a_colon(tmp_path: Path, spec: str, profile: str, count: int) -> None:
    [found] = model(tmp_path, spec).specs
    assert (found.profile, found.profile_count) == (profile, count)


def test_a_launcher_comes_from_the_profile_and_an_unknown_profile_is_a_warning() -> None:
    specs = tuple(Spec(name, "vllm", "x", profile=name) for name in ("", "here", "theirs", "unknown"))
    profiles = {"here": ResourceProfile("here", "docker"), "theirs": ResourceProfile("theirs", "static")}
    found, warnings = with_launchers(Model("m", ("TextGeneration",), specs), profiles)
    assert [spec.launcher for spec in found.specs] == ["", "docker", "", ""]
    [warning] = warnings
    assert "model m, spec unknown: no resource profile 'unknown' is defined" in warning


def test_everything_that_a_profile_says_is_in_it(tmp_path: Path) -> None:
    text = (
        "kind: ResourceProfile\napiVersion: v1\nmetadata: {name: p}\nspec:\n  launcher: nomad\n  cpu: 1.5\n"
        "  memory: 2Gi\n  gpu: {count: 2, kind: l4}\n  image: i\n  interpreter: /py\n  env: {A: b}\n"
        "  datacenters: [x]\n  constraints: {c: d}\n  inventory: 0\n  startTimeoutSeconds: 9\n"
    )
    assert read(tmp_path, text).profiles == (
        ResourceProfile(
            "p", "nomad", 1.5, 2 * 1024**3, Gpu(2, "l4"), "i", "/py", {"A": "b"}, ("x",), {"c": "d"}, 0, 9.0
        ),
    )


def test_a_profile_without_anything_is_somebody_elses(tmp_path: Path) -> None:
    assert read(tmp_path, "resourceProfiles:\n  p:\n").profiles == (ResourceProfile("p"),)
    assert read(tmp_path, "kind: ResourceProfile\nmetadata: {name: p}\n").profiles == (ResourceProfile("p"),)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{launcher: nomad}", "p.image: the launcher nomad needs an image"),
        ("{launcher: kubernetes}", "p.image: the launcher kubernetes needs an image"),
        ("{inventory: -1}", "p.inventory: must be 0 or more"),
        ("{startTimeoutSeconds: 0}", "p.startTimeoutSeconds: must be more than 0"),
        ("{gpu: {kind: l4}}", "p.gpu: Object missing required field `count`"),
        ("{gpu: {count: 1, type: l4}}", "p.gpu: Object contains unknown field `type`"),
        ("{env: {A: 1}}", "p.env: Expected `str`, got `int`"),
        ("{memory: -1}", "p.memory: '-1' is not a size"),
        ("{start_timeout_seconds: 1}", "did you mean 'startTimeoutSeconds'?"),
        ("x", "resourceProfiles.p: must be a mapping of"),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, entry: str, says: str) -> None:
    assert says in refused(tmp_path, f"resourceProfiles:\n  p: {entry}\n")
