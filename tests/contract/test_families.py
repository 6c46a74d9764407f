"""Families of picture and video models: each draws what diffusers draws when it is called directly."""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image, ImageSequence

from stoker.schemas.formats import OutputFormat
from stoker.schemas.jobs import Attachment, ImageInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request, Stopped
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import families
from tests.fixtures.threads import in_a_thread

av = pytest.importorskip("av")
STEPS, EDGE, FRAMES = 2, 64, 9
IN_MAKE_TEST = ("FLUX.1", "Qwen-Image", "Wan")
"""One of each way to lay latents out; the others are of make test-all."""


def some(names: Sequence[str]) -> list[Any]:
    return [pytest.param(one, marks=() if one in IN_MAKE_TEST else pytest.mark.slow) for one in names]


def source() -> Image.Image:
    rows = numpy.arange(EDGE * EDGE * 3, dtype=numpy.uint32).reshape(EDGE, EDGE, 3)
    return Image.fromarray((rows * 7 % 256).astype("uint8"))


def as_file(image: Image.Image) -> Attachment:
    content = io.BytesIO()
    image.save(content, "PNG")
    return Attachment(content.getvalue())


def loaded(folder: Path) -> DiffusersEngine:
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", folder, {}))
    return engine


def draw(engine: DiffusersEngine, heard: Heard | None = None, seed: int = 5, **asked: Any) -> Images:
    told = {"prompt": "a cat", "num_inference_steps": STEPS} | asked
    run = engine.run("m", Request("j", ImageInput(**told), seed), heard or Heard(), Cancellation())
    made = asyncio.run(run)
    assert isinstance(made, Images)
    return made


def wanted(folder: Path, name: str) -> dict[str, Any]:
    """What our engine is asked for: the same as in `directly`."""
    found: dict[str, Any] = {}
    if name in ("SDXL refiner", "FLUX.1 Fill", "FLUX.1 Kontext", "Stable Video Diffusion"):
        found["files"] = {"image": as_file(source())}
    if name == "SDXL refiner":  # of two steps it takes none: its strength is 0.3
        found["num_inference_steps"] = 8
    if name == "FLUX.1 Kontext":  # which enlarges what it is given to a million pixels
        found["parameters"] = {"_auto_resize": False, "max_area": EDGE * EDGE}
    if name == "FLUX.1 Fill":
        found["files"]["mask_image"] = as_file(Image.new("L", (EDGE, EDGE), 255))
    if not found:
        found |= {"width": EDGE, "height": EDGE}
    if name in families.VIDEOS:
        found["parameters"] = {"num_frames": FRAMES}
    return found


def directly(folder: Path, name: str, seed: int = 5) -> Any:
    """What diffusers gives: an array of pictures or of videos, 0 to 1."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": STEPS, "output_type": "np"}
    asked = wanted(folder, name)
    given |= {key: asked[key] for key in ("width", "height") if key in asked}
    if "files" in asked:
        given |= {"image": source(), "width": EDGE, "height": EDGE}
    if name == "FLUX.1 Fill":
        given["mask_image"] = Image.new("L", (EDGE, EDGE), 255)
    if name == "SDXL refiner":
        given = {key: value for key, value in given.items() if key not in ("width", "height")}
    if name == "Stable Video Diffusion":
        del given["prompt"]
    given |= asked.get("parameters", {})
    given["num_inference_steps"] = asked.get("num_inference_steps", STEPS)
    if name in ("PixArt Sigma", "Sana"):
        given["use_resolution_binning"] = False
    given["generator"] = torch.Generator("cpu").manual_seed(seed)

    def draw_directly() -> Any:
        with torch.inference_mode():
            return pipeline(**given)

    made = in_a_thread(draw_directly)
    return made.frames[0] if hasattr(made, "frames") else made.images[0]


def as_bytes(values: Any) -> Any:
    return (values * 255).round().astype("uint8")


@pytest.mark.parametrize("name", some([*families.PICTURES]))
def test_a_picture_is_the_one_that_diffusers_draws(name: str, tmp_path: Path) -> None:
    folder = families.made(name, tmp_path)
    engine = loaded(folder)
    heard = Heard()
    made = draw(engine, heard, previews=1, has_latents=True, **wanted(folder, name))
    picture = numpy.asarray(Image.open(io.BytesIO(made.images[0])))
    assert numpy.array_equal(picture, as_bytes(directly(folder, name)))
    assert heard.steps and len(heard.previews) == min(len(heard.steps) - 1, 1), "a look at it between the steps"
    assert len(made.details["latents"]) == 1
    assert heard.prompts[1], "a text encoder has read the prompt"
    again = draw(engine, heard, **wanted(folder, name))
    assert again.images == made.images
    assert heard.prompts[0] and not heard.prompts[1], "nothing is read twice"


@pytest.mark.parametrize("name", some([*families.VIDEOS]))
def test_a_video_is_the_one_that_diffusers_draws(name: str, tmp_path: Path) -> None:
    folder = families.made(name, tmp_path)
    engine = loaded(folder)
    heard = Heard()
    told = wanted(folder, name)
    made = draw(engine, heard, previews=1, output_format="png", **told)
    assert made.pictures[0].content_type == "image/png"
    animated = Image.open(io.BytesIO(made.images[0]))
    frames = [numpy.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(animated)]
    expected = as_bytes(directly(folder, name))
    assert len(frames) == len(expected) == FRAMES
    assert all(numpy.array_equal(one, other) for one, other in zip(frames, expected, strict=True))
    assert len(heard.steps) == STEPS


def test_a_video_is_written_as_asked_for_and_stopped_between_steps(tmp_path: Path) -> None:
    folder = families.made("Wan", tmp_path)
    engine = loaded(folder)
    told = wanted(folder, "Wan")
    kinds: tuple[tuple[OutputFormat | None, str], ...] = (
        (None, "video/mp4"), ("mp4", "video/mp4"), ("webp", "image/webp"), ("gif", "image/gif"),
    )  # fmt: skip
    for kind, media_type in kinds:
        made = draw(engine, output_format=kind, fps=5.0, **told)
        assert made.pictures[0].content_type == media_type
        assert (made.pictures[0].width, made.pictures[0].height) == (EDGE, EDGE)
        assert draw(engine, output_format=kind, fps=5.0, **told).images == made.images
        if media_type == "video/mp4":
            with av.open(io.BytesIO(made.images[0])) as container:
                stream = container.streams.video[0]
                assert stream.codec_context.name == "h264" and stream.average_rate == 5
                assert container.metadata["comment"].startswith("a cat")
                assert len(list(container.decode(video=0))) == FRAMES
        else:
            frames = [one.copy() for one in ImageSequence.Iterator(Image.open(io.BytesIO(made.images[0])))]
            assert len(frames) > 1
            assert media_type == "image/webp" or frames[1].info["duration"] == 200
    with pytest.raises(EngineError, match="no JPEG"):
        draw(engine, output_format="jpeg", **told)
    with pytest.raises(EngineError, match="fps must be a number over 0"):
        draw(engine, fps=1000.0, **told)
    cancelled = Cancellation()
    cancelled.set()
    asked = ImageInput(prompt="a cat", num_inference_steps=50, **told)
    with pytest.raises(Stopped):
        asyncio.run(engine.run("m", Request("j", asked, 1), Heard(), cancelled))


@pytest.mark.slow
def test_what_a_pipeline_does_not_read_is_told(tmp_path: Path) -> None:
    folder = families.made("Stable Video Diffusion", tmp_path)
    engine = loaded(folder)
    told = wanted(folder, "Stable Video Diffusion")
    assert "reads no prompt" in draw(engine, **told).details["remark"]
    assert "remark" not in draw(engine, **told | {"prompt": ""}).details
    with pytest.raises(EngineError, match="send one as image"):
        draw(engine, parameters={"num_frames": FRAMES})
