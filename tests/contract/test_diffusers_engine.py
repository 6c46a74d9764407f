"""The diffusers engine on tiny checkpoints of every kind: same seed, same bytes; LoRAs; memory."""

import asyncio
import gc
import io
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from stoker.functions.output import OutputPart
from stoker.schemas.catalog import Adapter
from stoker.schemas.jobs import ImageInput
from stoker.schemas.samplers import SAMPLERS
from stoker.services.worker.engines.base import (
    Cancellation,
    EngineError,
    Images,
    ModelFiles,
    Request,
    Stopped,
    Task,
)
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.fixtures import checkpoints
from tests.fixtures.single_files import single_file


class Heard:
    """An emitter that keeps what it is told, and may cancel at a step."""

    def __init__(self, cancel_at: int = 0) -> None:
        self.steps: list[int] = []
        self.prompts = (-1, -1)
        self.previews: list[tuple[int, int, int]] = []
        self.cancelled = Cancellation()
        self._cancel_at = cancel_at

    def text(self, text: str, tokens: int = 1, *, is_reasoning: bool = False, logprobs: Any = ()) -> None: ...

    def calls(self, parts: Any, tokens: int) -> None: ...

    def step(self, step: int, steps: int) -> None:
        self.steps.append(step)
        if step == self._cancel_at:
            self.cancelled.set()

    def preview(self, index: int, step: int, width: int, height: int, png: bytes) -> None:
        assert png.startswith(b"\x89PNG")
        self.previews.append((step, width, height))

    def printed(self, output: OutputPart) -> None: ...

    def drawn(self, kept: int, read: int) -> None:
        self.prompts = (kept, read)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine")
    for make in (checkpoints.sd15, checkpoints.sdxl, checkpoints.kandinsky22, checkpoints.kandinsky3):
        make(root / make.__name__)
    checkpoints.lora(root / "a.safetensors", 2048, seed=1)
    checkpoints.lora(root / "b.safetensors", 2048, seed=2)
    return root


@pytest.fixture(scope="module")
def engine(root: Path) -> DiffusersEngine:
    engine = create(CAPABILITIES["diffusers"])
    for name in ("sd15", "sdxl", "kandinsky22", "kandinsky3"):
        engine.load(ModelFiles(name, root / name, {}))
    return engine


def asked(**options: Any) -> ImageInput:
    return ImageInput(**({"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 3} | options))


def draw(
    engine: DiffusersEngine, model: str, seed: int = 5, loras: Sequence[Adapter] = (), **options: Any
) -> Images:
    request = Request("job", asked(**options), seed, title=model, loras=tuple(loras))
    drawn = asyncio.run(engine.run(model, request, Heard(), Cancellation()))
    assert isinstance(drawn, Images)
    return drawn


@pytest.mark.parametrize("model", ["sd15", "sdxl", "kandinsky22", "kandinsky3"])
def test_the_same_seed_gives_the_same_bytes(engine: DiffusersEngine, root: Path, model: str) -> None:
    first = draw(engine, model).images
    assert draw(engine, model).images == first
    engine.park(model)
    engine.unpark(model)
    assert draw(engine, model).images == first
    engine.unload(model)
    engine.load(ModelFiles(model, root / model, {}))
    assert draw(engine, model).images == first
    assert draw(engine, model, seed=6).images != first


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_single_file_draws_what_its_directory_draws(
    engine: DiffusersEngine, root: Path, tmp_path: Path, model: str, suffix: str
) -> None:
    file = single_file(root / model, tmp_path / f"other{suffix}")
    engine.load(ModelFiles("file", file, {"config": str(root / model)}))
    assert draw(engine, "file").pictures == draw(engine, model).pictures
    one, other = (Image.open(io.BytesIO(draw(engine, name).images[0])) for name in ("file", model))
    assert one.tobytes() == other.tobytes()


def test_pictures_of_one_request_count_their_seeds_up(engine: DiffusersEngine) -> None:
    several = draw(engine, "sd15", seed=10, n=3)
    assert [picture.seed for picture in several.pictures] == [10, 11, 12]
    assert len(set(several.images)) == 3


@pytest.mark.parametrize("sampler", ["", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS)])
def test_a_batch_gives_the_pictures_that_single_runs_give(engine: DiffusersEngine, sampler: str) -> None:
    """Single precision sums in another order in a batch: at most two of 255 levels apart."""
    how = {"sampler": sampler, "num_inference_steps": 4} if sampler else {}
    tasks = [
        Task(Request(f"j{i}", asked(prompt=f"cat {i}", **how), i, title="sd15"), Heard(), Cancellation())
        for i in range(4)
    ]
    together = asyncio.run(engine.run_together("sd15", tasks))
    for i, images in enumerate(together):
        assert isinstance(images, Images)
        alone = draw(engine, "sd15", seed=i, prompt=f"cat {i}", **how)
        pair = [Image.open(io.BytesIO(one.images[0])).tobytes() for one in (images, alone)]
        assert max(abs(a - b) for a, b in zip(*pair, strict=True)) <= 2


def test_the_next_picture_is_drawn_while_the_files_of_the_one_before_are_written(
    engine: DiffusersEngine,
) -> None:
    """The next one is asked for by the thread that would write: it ends though nothing is written yet."""
    others: list[Images] = []

    class Asking(Heard):
        def drawn(self, kept: int, read: int) -> None:
            others.append(draw(engine, "sd15", seed=9, sampler="Euler a"))

    expected = draw(engine, "sd15", seed=8)
    first = asyncio.run(engine.run("sd15", Request("job", asked(), 8, title="sd15"), Asking(), Cancellation()))
    assert isinstance(first, Images)
    assert first.images == expected.images, "it says its own sampler, not that of the next one"
    assert len(others) == 1


def test_steps_and_previews_are_told_and_a_cancel_stops_between_steps(engine: DiffusersEngine) -> None:
    heard = Heard()
    request = Request("job", asked(num_inference_steps=8, previews=3), 1)
    asyncio.run(engine.run("sd15", request, heard, heard.cancelled))
    assert heard.steps == list(range(1, 9))
    assert len(heard.previews) == 3
    stopping = Heard(cancel_at=2)
    with pytest.raises(Stopped):
        asyncio.run(engine.run("sd15", request, stopping, stopping.cancelled))
    assert stopping.steps == [1, 2]
    draw(engine, "sd15")  # and the next one works


def test_loras_are_switched_in_place_and_leave_no_trace(engine: DiffusersEngine, root: Path) -> None:
    a = Adapter("a", str(root / "a.safetensors"), 1.0)
    weak = Adapter("a", str(root / "a.safetensors"), 0.2)
    b = Adapter("b", str(root / "b.safetensors"), 1.0)
    plain = draw(engine, "sdxl").images
    drawn = [draw(engine, "sdxl", loras=loras).images for loras in ([a], [weak], [b], [a, b])]
    assert len({plain, *drawn}) == 5
    assert draw(engine, "sdxl").images == plain
    assert draw(engine, "sdxl", loras=[a]).images == drawn[0]
    assert "skipped_loras" not in draw(engine, "sdxl", loras=[a]).details
    skipped = draw(engine, "kandinsky3", loras=[a]).details["skipped_loras"]
    assert skipped == ("a: a.safetensors is for cross_attention_dim 2048, the model has 4",)


def test_a_picture_to_start_from_needs_a_pipeline_that_can(engine: DiffusersEngine) -> None:
    with pytest.raises(EngineError, match="takes no prior_guidance_scale"):
        draw(engine, "sd15", parameters={"prior_guidance_scale": 2.0})
    assert draw(engine, "kandinsky22", parameters={"prior_num_inference_steps": 2}).images


@pytest.mark.slow
def test_switching_fifty_times_leaks_nothing(engine: DiffusersEngine, root: Path) -> None:
    process = psutil.Process()

    def switch(times: int) -> int:
        for _ in range(times):
            engine.load(ModelFiles("again", root / "sd15", {}))
            engine.unload("again")
        gc.collect()
        return process.memory_info().rss

    settled = switch(10)
    assert switch(50) < settled + 15_000_000  # less than one copy of the model


def test_document_003_draws_as_its_examples_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "2. Using in Server Code", and the list of what its suite covers."""
    import time

    from stoker.standalone import DiffusersSDXLCudaWorker, GenerateRequest, Job

    monkeypatch.setenv("SDXL_MODEL_ROOT", str(root))
    monkeypatch.setenv("SDXL_MODEL", "sdxl")
    worker = DiffusersSDXLCudaWorker(worker_id=0)
    req = GenerateRequest(
        prompt="a majestic mountain landscape at sunset",
        size="128x128",
        num_inference_steps=4,
        guidance_scale=1.0,
        seed=42,
    )
    job = Job(req=req, fut=Future(), submitted_at=time.time())
    png_bytes, seed = worker.run_job(job)
    assert (png_bytes[:4], seed) == (b"\x89PNG", 42)
    assert worker.run_job(job) == (png_bytes, 42)
    again, seed, latents_bytes = worker.run_job_with_latents(job)
    assert (again, seed, len(latents_bytes)) == (png_bytes, 42, 512)
    with pytest.raises(ValueError, match="512x512"):
        worker.run_job(Job(GenerateRequest("x", size="big")))
    seeds = {
        worker.run_job(Job(GenerateRequest("x", size="64x64", num_inference_steps=1)))[1] for _ in range(3)
    }
    assert len(seeds) == 3
    monkeypatch.setenv("SDXL_MODEL", "sd15")
    with pytest.raises(EngineError, match="is sd15"):
        DiffusersSDXLCudaWorker(worker_id=1)
