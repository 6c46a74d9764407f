"""Hires fix, tiling, variations and masks on tiny random weights, against diffusers called directly."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image, ImageChops

from stoker.schemas.drawing import LATENT_UPSCALERS, HiresFix, Variation
from stoker.schemas.jobs import Attachment, ImageInput
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
from stoker.services.worker.engines.images.hires import enlarged, enlarged_latents
from stoker.services.worker.engines.images.tiling import tiled
from stoker.services.worker.engines.images.variation import between
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.unit.worker.images.made import cornered, file_of, opened

TWICE = HiresFix(strength=0.8)
STEPS = 4
EDGE = 32
"""Of the first pass, in pixels; the tiny decoder enlarges twice only."""


class Told(Heard):
    """Keeps how many steps there are, too; cancels at one."""

    def __init__(self, cancel_at: int = 0) -> None:
        super().__init__(cancel_at)
        self.shares: list[tuple[int, int]] = []

    def step(self, step: int, steps: int) -> None:
        super().step(step, steps)
        self.shares.append((step, steps))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    root: Path = tmp_path_factory.mktemp("hires")
    engine = create(CAPABILITIES["diffusers"])
    for make in (checkpoints.sd15, checkpoints.sdxl, checkpoints.kandinsky3):
        make(root / make.__name__)
        engine.load(ModelFiles(make.__name__, root / make.__name__, {"self_test": False}))
    return engine


def asked(prompt: str = "a cat", **options: Any) -> ImageInput:
    return ImageInput(prompt, **({"width": EDGE, "height": EDGE, "num_inference_steps": STEPS} | options))


def draw(
    engine: DiffusersEngine, model: str = "sd15", heard: Heard | None = None, seed: int = 5, **options: Any
) -> Images:
    request = Request("j", asked(**options), seed, title=model)
    found = asyncio.run(engine.run(model, request, heard or Heard(), Cancellation()))
    assert isinstance(found, Images)
    return found


def picture(engine: DiffusersEngine, model: str = "sd15", **options: Any) -> Image.Image:
    return opened(draw(engine, model, **options).images[0])


def pipeline_of(engine: DiffusersEngine, model: str = "sd15") -> Any:
    return engine._loaded[model].pipeline


def called(pipeline: Any, **given: Any) -> Any:
    generator = torch.Generator("cpu").manual_seed(5)
    with torch.inference_mode():
        return pipeline("a cat", num_inference_steps=STEPS, generator=generator, **given).images


# Hires fix ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscaler", ["Latent (nearest-exact)", "Lanczos"])
def test_two_passes_are_what_diffusers_draws_in_two_calls(engine: DiffusersEngine, upscaler: str) -> None:
    plain = picture(engine).tobytes()
    drawn = picture(engine, hires=HiresFix(scale=1.5, strength=0.8, upscaler=upscaler))
    own = pipeline_of(engine)
    second = StableDiffusionImg2ImgPipeline.from_pipe(own)
    second.set_progress_bar_config(disable=True)
    if upscaler == "Lanczos":
        first = called(own, width=EDGE, height=EDGE)[0]
        image: Any = first.resize((48, 48), Image.Resampling.LANCZOS)
    else:
        latents = called(own, width=EDGE, height=EDGE, output_type="latent")
        image = torch.nn.functional.interpolate(latents, scale_factor=1.5, mode="nearest-exact")
    wanted = called(second, image=image, strength=0.8)[0]
    assert drawn.size == (48, 48)
    assert max(high for _, high in ImageChops.difference(drawn, wanted).getextrema()) <= 1
    assert picture(engine).tobytes() == plain  # nothing is left behind


def test_progress_counts_both_passes_and_the_file_says_how_it_was_made(engine: DiffusersEngine) -> None:
    heard = Told()
    drawn = draw(engine, heard=heard, hires=HiresFix(strength=0.5, steps=6), previews=2)
    assert heard.shares == [(step, 7) for step in range(1, 8)]
    assert len(heard.previews) == 2
    told = opened(drawn.images[0]).info["parameters"]
    for fact in ("Steps: 4", "Size: 32x32", "Denoising strength: 0.5", "Hires upscale: 2.0", "Hires steps: 6"):
        assert fact in told
    assert "Hires upscaler: Latent" in told
    assert (drawn.pictures[0].width, drawn.pictures[0].height) == (64, 64)


@pytest.mark.parametrize(
    ("hires", "size"),
    [
        (HiresFix(scale=1.3, strength=0.8), (40, 40)),
        (HiresFix(width=48, strength=0.8), (48, 48)),
        (HiresFix(width=64, height=48, strength=0.8), (64, 48)),
        (HiresFix(width=64, height=48, strength=0.8, upscaler="Lanczos"), (64, 48)),
    ],
)
def test_the_second_pass_has_the_size_that_is_asked_for(
    engine: DiffusersEngine, hires: HiresFix, size: tuple[int, int]
) -> None:
    assert picture(engine, hires=hires).size == size


def test_several_pictures_and_jobs_each_have_their_own_second_pass(engine: DiffusersEngine) -> None:
    two = [opened(one).tobytes() for one in draw(engine, hires=TWICE, n=2).images]
    inputs = [asked(hires=TWICE), asked("a dog", hires=TWICE)]
    tasks = [Task(Request(f"j{i}", one, 5), Heard(), Cancellation()) for i, one in enumerate(inputs)]
    together = asyncio.run(engine.run_together("sd15", tasks))
    alone = [picture(engine, hires=TWICE), picture(engine, prompt="a dog", hires=TWICE)]
    assert two[0] != two[1]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Images)
        assert max(high for _, high in ImageChops.difference(opened(one.images[0]), other).getextrema()) <= 3


def test_sdxl_and_weights_take_part_and_strength_0_only_enlarges(engine: DiffusersEngine) -> None:
    drawn = picture(engine, "sdxl", prompt="a (cat:1.5)", prompt_weights=True, hires=TWICE)
    assert drawn.size == (64, 64) != picture(engine, "sdxl").size
    still = picture(engine, hires=HiresFix(strength=0.0))
    assert still.tobytes() == picture(engine).resize((64, 64), Image.Resampling.LANCZOS).tobytes()


def test_other_pipelines_enlarge_the_picture_and_say_where_they_cannot(engine: DiffusersEngine) -> None:
    width, height = picture(engine, "kandinsky3").size
    assert picture(engine, "kandinsky3", hires=TWICE).size == (2 * width, 2 * height)
    for wrong, field in (
        ({"hires": HiresFix(upscaler="Latent")}, "hr_upscaler"),
        ({"hires": HiresFix(scale=200.0)}, "hr_scale"),
        ({"hires": TWICE, "files": {"image": Attachment(file_of(cornered(64, 64)))}}, "enable_hr"),
    ):
        with pytest.raises(EngineError) as refused:
            draw(engine, "kandinsky3", **wrong)
        assert (refused.value.kind, refused.value.field) == ("validation", field)


def test_a_second_pass_is_cancelled_between_steps(engine: DiffusersEngine) -> None:
    heard = Told(cancel_at=STEPS + 1)
    with pytest.raises(Stopped):
        asyncio.run(engine.run("sd15", Request("j", asked(hires=TWICE), 5), heard, heard.cancelled))
    assert heard.shares[-1] == (STEPS + 1, STEPS + 3)


@pytest.mark.parametrize("upscaler", LATENT_UPSCALERS)
def test_latents_cover_the_size_and_their_middle_is_kept(upscaler: str) -> None:
    latents = torch.arange(32.0).reshape(1, 1, 4, 8)
    grown = enlarged_latents(latents, (64, 64), 8, upscaler)
    assert grown.shape == (1, 1, 8, 8)
    assert grown[0, 0, :, :].mean() == pytest.approx(15.5, abs=0.5)
    assert enlarged(Image.new("RGB", (8, 4)), (16, 16), "None").size == (16, 16)


# Tiling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sd15", "sdxl", "kandinsky3"])
def test_tiling_is_of_a_run_and_leaves_nothing_behind(engine: DiffusersEngine, model: str) -> None:
    plain = picture(engine, model).tobytes()
    drawn = picture(engine, model, tiling=True)
    assert drawn.tobytes() != plain
    assert picture(engine, model).tobytes() == plain
    assert picture(engine, model, tiling=True).tobytes() == drawn.tobytes()
    assert "Tiling: True" in opened(draw(engine, model, tiling=True).images[0]).info["parameters"]


def test_a_tiled_decoder_does_not_know_where_the_picture_begins(engine: DiffusersEngine) -> None:
    pipeline = pipeline_of(engine)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), tiled(pipeline, True):
        drawn, moved = (pipeline.vae.decode(one).sample for one in (latents, latents.roll(4, dims=3)))
    factor = drawn.shape[-1] // 8
    assert torch.allclose(drawn.roll(4 * factor, dims=3), moved, atol=1e-4)


def test_convolutions_are_as_before_after_an_error(engine: DiffusersEngine) -> None:
    pipeline = pipeline_of(engine)
    pipeline.vae.decoder.conv_in.padding_mode = "reflect"  # whatever it was

    def modes() -> list[str]:
        parts = (pipeline.unet, pipeline.vae)
        return [
            module.padding_mode
            for part in parts
            for module in part.modules()
            if isinstance(module, torch.nn.Conv2d)
        ]

    before = modes()
    try:
        with pytest.raises(KeyError), tiled(pipeline, True):
            assert set(modes()) == {"circular"}
            raise KeyError
        assert modes() == before
    finally:
        pipeline.vae.decoder.conv_in.padding_mode = "zeros"
    with pytest.raises(EngineError, match="object draws no tiles"), tiled(object(), True):
        pass


# Variations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_variation_lies_between_two_seeds(engine: DiffusersEngine, model: str) -> None:
    plain = picture(engine, model)
    other = picture(engine, model, seed=9)
    near, half, far = (picture(engine, model, variation=Variation(9, share)) for share in (0.0, 0.5, 1.0))
    assert near.tobytes() == plain.tobytes()
    assert max(high for _, high in ImageChops.difference(far, other).getextrema()) <= 2
    assert half.tobytes() not in (near.tobytes(), far.tobytes())
    assert picture(engine, model).tobytes() == plain.tobytes()


def test_the_seed_stays_and_the_subseed_counts_up(engine: DiffusersEngine) -> None:
    drawn = draw(engine, n=2, variation=Variation(9, 0.3))
    assert [one.seed for one in drawn.pictures] == [5, 5]
    assert opened(drawn.images[1]).info["parameters"].count("Variation seed: 10, Variation seed strength: 0.3")
    second = picture(engine, variation=Variation(10, 0.3))
    assert max(high for _, high in ImageChops.difference(opened(drawn.images[1]), second).getextrema()) <= 2
    random = picture(engine, variation=Variation(10, 0.3), sampler="Euler a")
    assert random.tobytes() == picture(engine, variation=Variation(10, 0.3), sampler="Euler a").tobytes()


def test_the_arc_keeps_the_size_of_noise() -> None:
    low, high = (torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert torch.equal(between(low, high, 0.0), low)
    assert torch.allclose(between(low, high, 1.0), high, atol=1e-5)
    assert between(low, high, 0.5).std() == pytest.approx(1.0, abs=0.05)
    assert torch.allclose(between(low, low, 0.5), low)


def test_what_makes_no_variations_says_so(engine: DiffusersEngine) -> None:
    varied = {"variation": Variation(9, 0.5)}
    image = {"files": {"image": Attachment(file_of(cornered(64, 64)))}}
    for model, options in (("kandinsky3", varied), ("sd15", varied | image)):
        with pytest.raises(EngineError, match="makes no variations") as refused:
            draw(engine, model, **options)
        assert (refused.value.kind, refused.value.field) == ("validation", "subseed_strength")


# Masks --------------------------------------------------------------------------------------------


def test_a_mask_may_be_inverted_and_filled(engine: DiffusersEngine) -> None:
    source = Image.effect_noise((64, 64), 90).convert("RGB")
    half, other = Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 255)
    half.paste(255, (0, 0, 32, 64))
    other.paste(0, (0, 0, 32, 64))
    size: dict[str, Any] = {"width": None, "height": None, "parameters": {"strength": 0.5}}

    def edited(mask: Image.Image, **options: Any) -> Image.Image:
        files = {"image": Attachment(file_of(source)), "mask_image": Attachment(file_of(mask))}
        return picture(engine, files=files, **size, **options)

    plain = edited(half)
    assert edited(other, inverts_mask=True).tobytes() == plain.tobytes()
    filled = edited(half, fills_mask=True)
    assert filled.tobytes() != plain.tobytes()
    kept = (40, 0, 64, 64)
    assert filled.crop(kept).tobytes() == source.crop(kept).tobytes()
    assert edited(half).tobytes() == plain.tobytes()
