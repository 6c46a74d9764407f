"""The JSON Schema of configurations: examples fit it, it sees mistakes, and it refuses nothing that is right."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from stoker.cli import init
from stoker.cli.init import SCHEMA
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import load
from stoker.services.catalog.multi_spec import SpecEntry
from stoker.services.catalog.schema import STRUCTS, configuration_schema, described
from stoker.services.catalog.short_form import ModelEntry
from tests.conftest import ROOT
from tests.unit.catalog.test_mistakes import WRONG, document, modes, short, whole

CHECKED = jsonschema.Draft202012Validator(configuration_schema())
NOT_IN_THE_FILE = {
    "a file that is not there", "no url at all, a word", "an adapter that is not there", "a vae that is not there",
    "a mode's file that is not there", "s3 without a resolver", "gs without a resolver", "pvc without a resolver",
    "a profile that is not there",
}  # fmt: skip
"""What depends on other files, or on what a worker has."""
BETWEEN_VALUES = {
    "a model twice", "a spec twice", "an adapter's name that is a model's", "a default mode that is none",
    "fewer at most than at least", "a mode that leaves its root", "a size that is odd",
    "a scale that is no number", "a file that is empty", "a key twice", "no YAML",
}  # fmt: skip
"""What no JSON Schema can say: values are compared with others, or there is no value."""
NAMED = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)
EXAMPLES = [
    *(ROOT / "examples" / "demo").glob("[ms]*o*.yaml"),
    ROOT / "deploy" / "config" / "stoker.yaml",
    *(ROOT / "stoker" / "templates").rglob("*.yaml"),
]


def is_valid(text: str) -> bool:
    return all(CHECKED.is_valid(one) for one in yaml.safe_load_all(text))


def test_the_schema_is_one_and_the_file_beside_the_examples_is_it() -> None:
    CHECKED.check_schema(CHECKED.schema)
    written = json.loads((ROOT / "examples" / SCHEMA).read_text())
    assert written == json.loads(msgspec.json.encode(CHECKED.schema)), (
        "run: stoker schema config > examples/stoker.schema.json"
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_example_fits_and_names_the_schema(path: Path) -> None:
    text = path.read_text()
    assert is_valid(text.replace("{model}", "hf://a/b/c.gguf"))
    [named] = NAMED.findall(text)
    assert text.startswith("# yaml-language-server")
    is_template = "templates" in path.parts
    assert named == SCHEMA if is_template else (path.parent / named).resolve() == ROOT / "examples" / SCHEMA


@pytest.mark.parametrize("name", sorted(WRONG.keys() - NOT_IN_THE_FILE - BETWEEN_VALUES))
def test_it_sees_every_mistake_that_stands_in_one_value(name: str) -> None:
    assert not is_valid(WRONG[name][0])


@pytest.mark.parametrize("name", sorted(NOT_IN_THE_FILE))
def test_it_does_not_refuse_what_may_be_right_elsewhere(name: str) -> None:
    assert is_valid(WRONG[name][0])


BOUNDS = [
    (short("slots: VALUE"), "0", "-1"),
    (short("run_timeout_s: VALUE"), "0.1", "0"),
    (short("memory: VALUE"), "1.5GiB", "1,5G"),
    (short("memory: VALUE"), "2Gi", "2Gx"),
    (short("features: [TextGeneration, SpeechToText], defaults: {language: VALUE}"), "en", "4"),
    (short("defaults: {language: VALUE}", "whisper"), "en", "[en]"),
    (short("options: {needs_gpu: VALUE}", "LlamaCpp"), "true", "1"),
    ("workers: [{count: VALUE}]\n", "64", "65"),
    ("workers: [{memory: VALUE}]\n", "512MB", "[]"),
    ("handlers: ['VALUE']\n", "a.b:c", "a.b.c"),
    ("x-common: 1\nmodels: {m: {engine: VALUE}}\n", "Synthetic", "None"),
    ("resourceProfiles: {a: {launcher: docker, image: 'VALUE'}}\n", "x", ""),
    ("resourceProfiles: {a: {startTimeoutSeconds: VALUE}}\n", "1", "0"),
    ("resourceProfiles: {a: {gpu: {count: VALUE}}}\n", "1", "one"),
    ("kind: ResourceProfile\nmetadata: {name: a}\nspec: {inventory: VALUE}\n", "0", "-1"),
    (whole("minReplicas: VALUE"), "0", "-1"),
    (whole("maxReplicas: VALUE"), "1", "0"),
    (whole("resourceProfile: 'VALUE'"), "cpu:2", "cpu:2:3"),
    (whole("loadBalancing: {prefixHash: {meanLoadPercentage: VALUE}}"), "100", "99"),
    (whole("loadBalancing: {prefixHash: {prefixChatLength: VALUE}}"), "1", "0"),
    (whole("waitingCostPerHour: VALUE"), "0", "-1"),
    (whole("features: [VALUE]"), "TextEmbedding", "Text"),
    (document("engine: VALUE, url: hf://a/b"), "FasterWhisper", "Faster"),
    (document("engine: VALUE, url: hf://a/b"), "vLLM", "vLLMs"),
    (document("url: hf://a/b", "{name: a, engine: VALUE}"), "vllm", "vlm"),
    (document("engine: VLLM, url: hf://a/b", "{name: a, slots: VALUE}"), "2", "two"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "right", "wrong"), BOUNDS, ids=range(len(BOUNDS)))
def test_it_and_the_loader_agree_on_each_bound(text: str, right: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "stoker.yaml"
    for value, is_right in ((right, True), (wrong, False)):
        file.write_text(text.replace("VALUE", value))
        assert is_valid(file.read_text()) is is_right, list(
            CHECKED.iter_errors(yaml.safe_load(file.read_text()))
        )
        if is_right:
            load([file], {})
        else:
            with pytest.raises(ConfigurationError):
                load([file], {})


@pytest.mark.parametrize(("steps", "is_right"), [(1, True), (150, True), (0, False), (151, False)])
def test_bounds_of_modes(steps: int, is_right: bool) -> None:
    assert (
        is_valid(modes(f"{{model: x, default_steps: {steps}, loras: [a, {{path: b, strength: 0.5}}]}}"))
        is is_right
    )


def test_every_key_of_models_specs_and_options_of_our_own_engines_is_described() -> None:
    assert described(ModelEntry)["url"].startswith("Of its weights: file:// (relative")
    for kind in STRUCTS:
        if kind.__name__ in ("Ollama", "Synthetic", "Defaults", "GpuEntry", "BalancingEntry"):
            continue  # named as others name them
        fields = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert fields - described(kind).keys() == set(), kind.__name__
    assert "standby" in described(SpecEntry)["targetRequests"]


def test_a_new_folder_has_the_schema_beside_its_configuration(tmp_path: Path) -> None:
    paths = init.written("chat", tmp_path / "new", "hf://a/b/c.gguf")
    assert {path.name for path in paths} == {"stoker.yaml", SCHEMA}
    assert json.loads((tmp_path / "new" / SCHEMA).read_text()) == json.loads(
        msgspec.json.encode(CHECKED.schema)
    )
    assert is_valid((tmp_path / "new" / "stoker.yaml").read_text())
    assert [path.suffix for path in init.written("functions", tmp_path / "other")] == [".py", ".toml"]


def properties(schema: Any) -> set[str]:
    return set(CHECKED.schema["$defs"][schema]["properties"])


def test_an_editor_is_offered_the_keys_that_the_loader_knows() -> None:
    assert properties("ModelEntry") == {field.encode_name for field in msgspec.structs.fields(ModelEntry)}
    assert {"models", "workers", "resourceProfiles"} <= properties("ShortForm")
    assert {"features", "specs", "owner", "minReplicas"} <= set(
        CHECKED.schema["$defs"]["ModelDocument"]["properties"]["spec"]["properties"]
    )
