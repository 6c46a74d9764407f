"""Drawing with one tiny checkpoint: a queue that is full, the legacy environment, a batch of like requests."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from tests.conftest import System
from tests.fixtures import checkpoints
from tests.fixtures.single_files import single_file
from tests.system.drawing import generate, size_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file, beside the directory that it was made of."""
    directory = checkpoints.sd15(tmp_path_factory.mktemp("models") / "tiny")
    return single_file(directory, directory.with_suffix(".safetensors"))


@pytest.fixture(scope="module")
def legacy(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """No modes file: variables of the environment say what is served."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MODEL_ROOT", str(model.parent))
        environment.setenv("MODEL", model.name)
        environment.setenv("DEFAULT_SIZE", "64x64")
        environment.setenv("DEFAULT_STEPS", "4")
        environment.setenv("QUEUE_MAX", "2")
        system = System(tmp_path_factory.mktemp("legacy"), "workers: [{count: 1, memory: 1GB}]\n")
    try:
        system.wait_ready()
        yield system
    finally:
        system.stop()


@pytest.mark.slow
def test_without_a_modes_file_the_environment_makes_one_mode(legacy: System) -> None:
    answer = generate(legacy)
    assert answer.status_code == 200, answer.text
    assert size_of(answer) == (64, 64)
    assert "Steps: 4," in Image.open(io.BytesIO(answer.content)).info["parameters"]
    assert "modes.yaml" in legacy.log.read_text()


@pytest.mark.slow
def test_more_than_queue_max_waiting_is_429(legacy: System) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: generate(legacy), range(12)))
    assert sorted({answer.status_code for answer in answers}) == [200, 429]
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)
    late = generate(legacy, superres=True)
    assert late.status_code == 503  # no upscaler: said before anything is drawn


@pytest.mark.slow
def test_like_requests_are_drawn_at_once_and_each_is_what_it_is_alone(model: Path, tmp_path: Path) -> None:
    tiny = {
        "engine": "diffusers",
        "url": f"file://{model.with_suffix('')}",
        "options": {"batch": 4},
        "defaults": {"width": 64, "height": 64, "num_inference_steps": 8},
    }
    worker = {"count": 1, "memory": "1GB", "engines": ["diffusers"]}
    system = System(tmp_path, yaml.safe_dump({"models": {"tiny": tiny}, "workers": [worker]}))
    try:
        system.wait_ready()
        alone = [_pixels(system, seed) for seed in range(4)]
        first = system.submit("tiny", "warm", num_inference_steps=30)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda seed: _pixels(system, seed), range(4)))
        system.ended(first)
    finally:
        system.stop()
    for one, other in zip(alone, together, strict=True):
        # single precision sums in another order in a batch: at most two of 255 levels
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 2
    assert len(set(alone)) == 4


def _pixels(system: System, seed: int) -> bytes:
    answer = system.post(
        "/v1/images/generations",
        {"model": "tiny", "prompt": f"p{seed}", "seed": seed, "response_format": "url"},
    )
    url = answer.json()["data"][0]["url"]
    return Image.open(io.BytesIO(httpx.get(url, timeout=30).content)).tobytes()
