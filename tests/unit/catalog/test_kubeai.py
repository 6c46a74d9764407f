"""Models as KubeAI's catalogue writes them: every shape loads, with its features; what means nothing here is said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from stoker.schemas import wire
from stoker.schemas.catalog import Feature, Model, Spec, SpecFile, weights_key
from stoker.services.bus.sizes import MAX_SPEC_BYTES
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.kubeai import WITHOUT_MEANING
from stoker.services.catalog.load import Configuration, load
from stoker.services.gateway.fleet_view import FleetView
from stoker.services.gateway.routes.models import _card

TEXT, VECTORS, SPEECH = ["TextGeneration"], ["TextEmbedding"], ["SpeechToText"]
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
GPU = {"resourceProfile": "gpu:1"}
CPU = {"resourceProfile": "cpu:2"}
SHAPES: dict[str, dict[str, Any]] = {
    "text": {"features": TEXT, "url": "hf://o/small", "engine": "VLLM", **GPU},
    "text-args": {"features": TEXT, "url": "hf://o/a", "engine": "VLLM", "args": ["--max-model-len=512"], **GPU},
    "text-args-env": {
        "features": TEXT, "url": "hf://o/b", "engine": "VLLM", "args": ["--enforce-eager"], "env": {"A": "1"}, **GPU,
    },
    "text-target": {
        "features": TEXT, "url": "hf://o/c", "engine": "VLLM", "args": ["--x"], "targetRequests": 50, **GPU,
    },
    "text-target-env": {
        "features": TEXT, "url": "hf://o/d", "engine": "VLLM", "args": ["--x"], "env": {"A": "b"},
        "targetRequests": 8, "resourceProfile": "gpu:8",
    },
    "text-least": {
        "features": TEXT, "url": "hf://o/e", "engine": "VLLM", "args": ["--x"], "env": {"A": "b"}, "minReplicas": 1, **GPU,
    },
    "vision": {
        "features": TEXT, "url": "hf://o/f", "engine": "VLLM", "args": ["--x"], "env": {"A": "b"}, "minReplicas": 1,
        "maxReplicas": 1, "targetRequests": 32, **GPU,
    },
    "text-files": {
        "features": TEXT, "url": "hf://o/g", "engine": "VLLM", "args": ["--chat-template=/config/t.jinja"],
        "files": [{"path": "/config/t.jinja", "content": TEMPLATE}], **CPU,
    },
    "vectors-vllm": {"features": VECTORS, "url": "hf://o/h", "engine": "VLLM", "args": ["--x"], **CPU},
    "text-ollama": {"features": TEXT, "url": "ollama://tiny:1b", "engine": "OLlama", **CPU},
    "vectors-ollama": {"features": VECTORS, "url": "ollama://vectors", "engine": "OLlama", **CPU},
    "vectors-infinity": {"features": VECTORS, "url": "hf://o/i", "engine": "Infinity", **CPU},
    "speech": {"features": SPEECH, "url": "hf://o/j", "engine": "FasterWhisper", **CPU},
}  # fmt: skip
"""The shapes of that catalogue: engine, features and the fields that are written."""
PROFILES = "resourceProfiles:\n  cpu: {cpu: 1}\n  gpu: {cpu: 1, gpu: {count: 1}}\n"


def read(folder: Path, *documents: dict[str, Any], profiles: str = PROFILES) -> Configuration:
    file = folder / "models.yaml"
    file.write_text("---\n".join([profiles, *(yaml.safe_dump(one) for one in documents)]))
    return load([file], {})


def document(spec: dict[str, Any], name: str = "m", **more: Any) -> dict[str, Any]:
    return {"apiVersion": "kubeai.org/v1", "kind": "Model", "metadata": {"name": name}, "spec": spec, **more}


def one(folder: Path, **fields: Any) -> tuple[Model, tuple[str, ...]]:
    found = read(folder, document({"url": "hf://o/n", "engine": "VLLM", **fields}))
    return found.models[0], found.warnings


def refused(folder: Path, **fields: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        one(folder, **fields)
    return str(error.value)


# The catalogue ------------------------------------------------------------------------------------


def test_every_shape_loads_without_a_warning(tmp_path: Path) -> None:
    found = read(tmp_path, *(document(spec, name) for name, spec in SHAPES.items()))
    assert found.warnings == ()
    assert {model.name: list(model.features) for model in found.models} == {
        name: spec["features"] for name, spec in SHAPES.items()
    }


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_shape_says_is_kept(name: str, tmp_path: Path) -> None:
    written = SHAPES[name]
    [model] = read(tmp_path, document(written, name)).models
    [spec] = model.specs
    engines = {"Infinity": "vllm", "FasterWhisper": "whisper"}
    assert spec.engine == engines.get(written["engine"], written["engine"].lower())
    assert (spec.url, f"{spec.profile}:{spec.profile_count}") == (written["url"], written["resourceProfile"])
    assert (list(spec.args), spec.env) == (written.get("args", []), written.get("env", {}))
    assert (spec.min_replicas, spec.max_replicas) == (
        written.get("minReplicas", 0),
        written.get("maxReplicas", 0),
    )
    assert spec.target_requests == written.get("targetRequests", 100)
    assert [(file.path, file.content) for file in spec.files] == [
        (file["path"], file["content"]) for file in written.get("files", [])
    ]


@pytest.mark.parametrize(
    ("engine", "url", "serves", "features"),
    [
        ("Infinity", "hf://o/bge", "vllm", ("TextEmbedding",)),
        ("infinity", "hf://o/bge/bge-q8.GGUF", "llamacpp", ("TextEmbedding",)),
        ("FasterWhisper", "hf://o/w", "whisper", ("SpeechToText",)),
        ("fasterwhisper", "hf://o/w", "whisper", ("SpeechToText",)),
        ("Whisper", "hf://o/w", "whisper", ("SpeechToText",)),
        ("VLLM", "hf://o/n", "vllm", ("TextGeneration",)),
    ],
)
def test_another_engines_models_have_its_features(
    engine: str, url: str, serves: str, features: tuple[Feature, ...], tmp_path: Path
) -> None:
    model, warnings = one(tmp_path, engine=engine, url=url)
    assert (model.specs[0].engine, model.features, warnings) == (serves, features, ())


def test_features_of_specs_with_engines_of_their_own_are_the_first_ones(tmp_path: Path) -> None:
    specs = [{"name": "a", "engine": "Infinity"}, {"name": "b", "engine": "VLLM"}]
    [model] = read(tmp_path, document({"url": "hf://o/n"}, specs=specs)).models
    assert model.features == ("TextEmbedding",)
    assert [spec.engine for spec in model.specs] == ["vllm", "vllm"]


def test_reranking_by_infinity_is_said_by_its_feature(tmp_path: Path) -> None:
    model, _ = one(tmp_path, engine="Infinity", features=["TextEmbedding", "Reranking"])
    assert model.features == ("TextEmbedding", "Reranking")


# Fields -------------------------------------------------------------------------------------------

NAMED: dict[str, Any] = {
    "cacheProfile": "shared-disk", "image": "server:v1", "envFrom": [{"secretRef": {"name": "s"}}],
    "jsonPatches": [{"op": "remove", "path": "/spec/x"}], "priority": 5, "priorityClassName": "high",
}  # fmt: skip


@pytest.mark.parametrize("field", NAMED)
def test_what_means_nothing_here_is_named(field: str, tmp_path: Path) -> None:
    _, warnings = one(tmp_path, **{field: NAMED[field]})
    assert warnings == (f"model m, spec default: {field} is left out: {WITHOUT_MEANING[field]}",)


def test_there_is_a_case_for_each_of_them() -> None:
    assert NAMED.keys() == WITHOUT_MEANING.keys()


@pytest.mark.parametrize(
    ("written", "bounds", "says"),
    [
        ({"replicas": 3}, (0, 0), "replicas is left out"),
        ({"replicas": 3, "autoscalingDisabled": True}, (3, 3), ""),
        ({"minReplicas": 2, "autoscalingDisabled": True}, (2, 2), ""),
        ({"autoscalingDisabled": True}, (1, 1), ""),
        ({"replicas": 0, "autoscalingDisabled": True}, (1, 1), "replicas: 0 is taken for 1"),
        ({"minReplicas": 1, "maxReplicas": 4, "autoscalingDisabled": False}, (1, 4), ""),
    ],
)
def test_without_autoscaling_the_number_is_fixed(
    written: dict[str, Any], bounds: tuple[int, int], says: str, tmp_path: Path
) -> None:
    model, warnings = one(tmp_path, **written)
    assert (model.specs[0].min_replicas, model.specs[0].max_replicas) == bounds
    assert (len(warnings) == 1 and says in warnings[0]) if says else warnings == ()


def test_labels_status_and_owner_are_taken(tmp_path: Path) -> None:
    written = document({"url": "hf://o/n", "engine": "VLLM", "owner": "ada"}, status={"replicas": {"all": 0}})
    written["metadata"] |= {"labels": {"team": "a"}, "annotations": {"b": "c"}, "namespace": "default"}
    found = read(tmp_path, written)
    assert (found.models[0].owner, found.warnings) == ("ada", ())
    gateway: Any = SimpleNamespace(fleet=FleetView())
    assert _card(gateway, "m", found.models[0]).owned_by == "ada"
    assert _card(gateway, "m", Model("m", (), ())).owned_by == "stoker"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"engine": "FasterWhisper", "args": ["--x"]}, "args is left out: the engine FasterWhisper takes options, as it is whisper"),
        ({"engine": "Infinity", "args": ["--x"]}, "args is left out: the engine Infinity takes options, as it is vllm"),
        ({"engine": "LlamaCpp", "args": ["--x"]}, "args is left out: the engine LlamaCpp takes options"),
        ({"engine": "LlamaCpp", "env": {"A": "b"}}, "env is left out: the engine llamacpp has no server"),
        (
            {"engine": "FasterWhisper", "files": [{"path": "/a/b", "content": ""}]},
            "files is left out: the engine whisper reads none",
        ),
    ],
)  # fmt: skip
def test_what_an_engine_does_not_take_is_named(written: dict[str, Any], says: str, tmp_path: Path) -> None:
    model, warnings = one(tmp_path, **written)
    assert len(warnings) == 1 and says in warnings[0], warnings
    assert model.specs[0].files == ()
    assert model.specs[0].args == () or written["engine"] == "LlamaCpp"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"cacheProfil": "a"}, "cacheProfil: unknown key; did you mean 'cacheProfile'"),
        ({"file": []}, "file: unknown key; did you mean 'files'"),
        ({"autoscalingDisable": True}, "did you mean 'autoscalingDisabled'"),
        ({"priorityClass": "a"}, "did you mean 'priorityClassName'"),
        ({"engine": "Infinty"}, "unknown engine 'Infinty'; there are VLLM, OLlama"),
        ({"engine": "FasterWhisper", "url": ""}, "missing required field: url"),
        ({"engine": "FasterWhisper", "url": "ollama://x"}, "nothing that the engine whisper reads"),
        ({"owner": ["ada"]}, "spec.owner: must be a text"),
        ({"replicas": -1}, "replicas: must be 0 or more"),
        ({"autoscalingDisabled": "no"}, "Expected `bool`"),
        ({"files": {"path": "/a"}}, "files: Expected `array`"),
        ({"files": [{"path": "/a"}]}, "missing required field `content`"),
        ({"files": [{"path": "a/b", "content": ""}]}, "files[0].path: must be a whole path"),
        ({"files": [{"path": "/a/../../b", "content": ""}]}, "files[0].path: must be a whole path"),
        ({"files": [{"path": "/", "content": ""}]}, "files[0].path: must be a whole path"),
        ({"files": [{"path": "/a:b", "content": ""}]}, "has no colon"),
        ({"files": [{"path": "/" + "a" * 1024, "content": ""}]}, "at most 1024 characters"),
        ({"files": [{"path": "/a", "content": ""}] * 2}, "files[1].path: a file '/a' is there already"),
        ({"files": [{"path": f"/{number}", "content": ""} for number in range(11)]}, "at most 10 files, not 11"),
        ({"files": [{"path": "/a", "content": "x" * MAX_SPEC_BYTES}]}, "bytes; it may have 65536"),
    ],
)  # fmt: skip
def test_mistakes_are_errors(written: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path, **written)


def test_files_travel_and_tell_specs_apart() -> None:
    spec = Spec("s", "vllm", "hf://o/n", files=(SpecFile("/a", "x"),))
    assert wire.decode(Spec, wire.encode(spec)) == spec
    other = Spec("s", "vllm", "hf://o/n", files=(SpecFile("/a", "y"),))
    plain = Spec("s", "vllm", "hf://o/n")
    assert len({weights_key("m", one) for one in (spec, other, plain)}) == 3
