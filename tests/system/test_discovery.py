"""Document 002: discovery. A tiny Kandinsky 2.2 and 3 behind the routes of the document."""

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from tests.conftest import System, wait_for
from tests.fixtures import checkpoints


@pytest.fixture(scope="module")
def kandinsky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("discovery")
    checkpoints.kandinsky3(folder / "kandinsky3-1")
    checkpoints.kandinsky22(folder / "kandinsky22")
    checkpoints.sd15(folder / "sd15")
    (folder / "broken").mkdir()
    (folder / "broken" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    names = ("kandinsky3-1", "kandinsky22", "sd15", "broken")
    models = {name: {"engine": "diffusers", "url": f"file://{folder / name}"} for name in names}
    worker = {"count": 1, "memory": "1GB", "engines": ["diffusers"]}
    system = System(folder / "system", yaml.safe_dump({"models": models, "workers": [worker]}))
    try:
        system.wait_ready()
        wait_for(lambda: has_schema(system, "kandinsky3-1"), 60, "the schema")
        yield system
    finally:
        system.stop()


def get(system: System, model: str, what: str) -> httpx.Response:
    return httpx.get(f"{system.url}/{model}/v1/{what}", timeout=30)


def has_schema(system: System, model: str) -> bool:
    """Whether a worker has told of it. To ask for the schema itself would load the model."""
    listed = get(system, model, "models").json()["models"]
    return any(one["id"] == model and one["pipeline_class"] for one in listed)


def generate(system: System, model: str, **body: Any) -> httpx.Response:
    return system.post(f"/{model}/v1/generate", body)


def until_ready(system: System, model: str, **body: Any) -> httpx.Response:
    return wait_for(lambda: (a := generate(system, model, **body)).status_code != 202 and a, 60, "an answer")


def test_the_schema_is_there_before_any_load(kandinsky: System) -> None:
    body = get(kandinsky, "kandinsky-kandinsky3-1", "schema").json()
    assert {"model_id", "pipeline_class", "capabilities", "inputs", "methods", "defaults"} <= body.keys()
    assert (body["model_id"], body["pipeline_class"]) == ("kandinsky3-1", "Kandinsky3Pipeline")
    assert "text-to-image" in body["capabilities"]
    assert body["inputs"]["required"] == ["prompt"]
    assert {"negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "generator"} <= set(
        body["inputs"]["optional"]
    )
    parameters = body["methods"]["__call__"]["parameters"]
    assert parameters["prompt"].keys() == {"name", "required", "default", "annotation"}
    assert (parameters["prompt"]["required"], parameters["prompt"]["default"]) == (True, None)
    assert "kwargs" not in parameters and "latents" not in parameters and "prompt_embeds" not in parameters
    assert (parameters["num_inference_steps"]["default"], body["defaults"]["guidance_scale"]) == (25, 3.0)
    second = get(kandinsky, "kandinsky22", "schema").json()
    assert second["pipeline_class"] == "KandinskyV22CombinedPipeline"


def test_at_zero_it_answers_at_once_where_to_look_and_works_once_ready(kandinsky: System) -> None:
    health = get(kandinsky, "kandinsky3-1", "health")
    assert (health.status_code, health.json()["ready"]) == (503, False)
    ask = {"prompt": "a beautiful landscape", "num_inference_steps": 3, "width": 128, "height": 128, "seed": 4}
    began = time.monotonic()
    first = generate(kandinsky, "kandinsky-kandinsky3-1", **ask)
    assert time.monotonic() - began < 2
    assert first.status_code == 202
    seconds = int(first.headers["retry-after"])
    assert (first.headers["x-status"], first.headers["x-action"]) == ("scaling-up", "retry-later")
    body = first.json()
    assert body.pop("message")
    assert body == {
        "status": "scaling_up",
        "model": "kandinsky3-1",
        "estimated_ready_time_seconds": seconds,
        "retry_after": seconds,
        "poll_url": "/kandinsky-kandinsky3-1/v1/generate",
        "health_url": "/kandinsky-kandinsky3-1/v1/health",
        "action": "retry_later",
    }
    wait_for(lambda: httpx.get(kandinsky.url + body["health_url"]).json()["ready"], 60, "readiness")
    answer = generate(kandinsky, "kandinsky-kandinsky3-1", **ask)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told.keys() == {"status", "model", "image", "parameters", "compute_metrics"}
    assert (told["status"], told["model"]) == ("success", "kandinsky3-1")
    assert told["image"].startswith("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(told["image"].split(",")[1]))).format == "PNG"
    used = told["parameters"]
    assert (used["prompt"], used["num_inference_steps"], used["guidance_scale"]) == (ask["prompt"], 3, 3.0)
    assert used["seed"] == 4
    metrics = told["compute_metrics"]
    assert metrics.keys() == {
        "query_duration_seconds", "replica_cpu_percent", "replica_memory_mb",
        "replica_gpu_memory_allocated_mb", "replica_gpu_memory_reserved_mb", "replica_gpu_memory_total_mb",
        "replica_gpu_memory_used_mb", "replica_gpu_utilization_percent",
    }  # fmt: skip
    assert metrics["replica_memory_mb"] > 100
    assert metrics["replica_gpu_memory_total_mb"] is None
    assert generate(kandinsky, "kandinsky3-1", **ask).json()["image"] == told["image"]
    again = {name: value for name, value in ask.items() if name != "seed"} | {"generator": ask["seed"]}
    assert generate(kandinsky, "kandinsky3-1", **again).json()["image"] == told["image"]


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "prompt", "missing required parameter: prompt"),
        (
            {"prompt": "x", "num_inference_stepz": 3},
            "num_inference_stepz",
            "did you mean 'num_inference_steps'",
        ),
        ({"prompt": "x", "num_inference_steps": "many"}, "num_inference_steps", "must be int"),
        ({"prompt": "x", "num_inference_steps": 1000}, "num_inference_steps", "between 1 and 150"),
        ({"prompt": "x", "width": 100}, "width", "multiple of 8"),
        ({"prompt": "x", "latents": [1]}, "latents", "cannot be given over HTTP"),
        ({"prompt": "x", "prompt_embeds": [1]}, "prompt_embeds", "cannot be given over HTTP"),
        ({"prompt": "x", "strength": 0.5}, "strength", "image_to_image and inpaint: send image too"),
        ({"prompt": "x", "ip_adapter_image": "aa"}, "ip_adapter_image", "unknown parameter"),
        ({"prompt": "x", "seed": "s"}, "seed", "whole number"),
        ({"prompt": "x", "generator": {}}, "generator", "whole number"),
        ({"prompt": "x", "image": "no picture!"}, "image", "data URL"),
    ],
)
def test_only_known_parameters_of_the_right_type_are_taken(
    kandinsky: System, body: dict[str, Any], field: str, said: str
) -> None:
    answer = generate(kandinsky, "sd15", **body)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert said in answer.json()["detail"]


def test_pictures_are_taken_as_base64_and_as_data_urls(kandinsky: System) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(picture, "PNG")
    text = base64.b64encode(picture.getvalue()).decode()
    ask = {"prompt": "x", "num_inference_steps": 3, "strength": 0.9, "seed": 1}
    plain = until_ready(kandinsky, "sd15", image=text, **ask)
    assert plain.status_code == 200, plain.text
    as_url = generate(kandinsky, "sd15", image=f"data:image/png;base64,{text}", **ask)
    assert as_url.json()["image"] == plain.json()["image"]
    painted = generate(kandinsky, "sd15", image=text, mask_image=text, **ask)
    assert painted.status_code == 200, painted.text
    assert painted.json()["image"] != plain.json()["image"]


def test_a_model_that_cannot_load_is_503_with_the_reason(kandinsky: System) -> None:
    answer = until_ready(kandinsky, "broken", prompt="x")
    assert answer.status_code == 503
    assert "broken cannot be loaded" in answer.json()["detail"]
    assert generate(kandinsky, "broken", prompt="x").status_code == 503
    health = get(kandinsky, "broken", "health").json()
    assert (health["status"], health["ready"]) == ("failed", False)


def test_deployments_are_listed_and_unknown_ones_are_not_found(kandinsky: System) -> None:
    listed = get(kandinsky, "sd15", "models").json()["models"]
    assert [one["id"] for one in listed] == ["broken", "kandinsky22", "kandinsky3-1", "sd15"]
    assert generate(kandinsky, "nope", prompt="x").status_code == 404
