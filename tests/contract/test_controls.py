"""ControlNets: a picture that what is drawn follows; on weights that other runs share."""

import asyncio
import io
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from stoker.schemas.drawing import Control
from stoker.schemas.jobs import Attachment, ImageInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.fixtures.threads import in_a_thread

EDGE, STEPS = 64, 2


def stripes() -> Image.Image:
    rows = numpy.zeros((EDGE, EDGE, 3), dtype="uint8")
    rows[::8] = 255
    return Image.fromarray(rows)


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls")
    checkpoints.sd15(folder / "sd15")
    checkpoints.controlnet(folder / "sd15", folder / "edges")
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> DiffusersEngine:
    made = create(CAPABILITIES["diffusers"])
    made.load(ModelFiles("m", folder / "sd15", {}))
    return made


def draw(engine: DiffusersEngine, folder: Path, control: Control | None = None, **asked: Any) -> bytes:
    told = {"prompt": "a cat", "num_inference_steps": STEPS, "width": EDGE, "height": EDGE} | asked
    named = {"controlnets": {"edges": str(folder / "edges"), "missing": str(folder / "nowhere")}}
    request = Request("j", ImageInput(**told, control=control), 5, options=named)
    made = asyncio.run(engine.run("m", request, Heard(), Cancellation()))
    assert isinstance(made, Images)
    return made.images[0]


def directly(folder: Path, kind: Any, **given: Any) -> Any:
    network = diffusers.ControlNetModel.from_pretrained(folder / "edges")
    pipeline = kind.from_pretrained(folder / "sd15", controlnet=network, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    told = {"prompt": "a cat", "num_inference_steps": STEPS, "width": EDGE, "height": EDGE, "output_type": "np"}

    def draw_directly() -> Any:
        with torch.inference_mode():
            return pipeline(**told | given, generator=torch.Generator("cpu").manual_seed(5)).images[0]

    return (in_a_thread(draw_directly) * 255).round().astype("uint8")


def pixels(content: bytes) -> Any:
    return numpy.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_control_draws_what_diffusers_draws_and_leaves_nothing_behind(
    engine: DiffusersEngine, folder: Path
) -> None:
    plain, before = draw(engine, folder), engine.memory_bytes("m")
    controlled = draw(engine, folder, Control("edges", png(stripes()), 0.8))
    expected = directly(
        folder, diffusers.StableDiffusionControlNetPipeline, image=stripes(), controlnet_conditioning_scale=0.8
    )
    assert numpy.array_equal(pixels(controlled), expected)
    assert not numpy.array_equal(pixels(controlled), pixels(plain))
    assert draw(engine, folder, Control("edges", png(stripes()), 0.8)) == controlled
    assert draw(engine, folder) == plain
    assert engine.memory_bytes("m") > before, "the network is counted"
    part = draw(engine, folder, Control("edges", png(stripes()), 0.8, 0.0, 0.5))
    assert part != controlled


@pytest.mark.slow
def test_a_control_goes_with_a_picture_and_a_mask(engine: DiffusersEngine, folder: Path) -> None:
    picture = Image.new("RGB", (EDGE, EDGE), (200, 30, 30))
    files = {"image": Attachment(png(picture))}
    asked: dict[str, Any] = {"files": files, "parameters": {"strength": 1.0}}
    control = Control("edges", png(stripes()))
    expected = directly(
        folder,
        diffusers.StableDiffusionControlNetImg2ImgPipeline,
        image=picture,
        control_image=stripes(),
        controlnet_conditioning_scale=1.0,
        strength=1.0,
    )
    assert numpy.array_equal(pixels(draw(engine, folder, control, **asked)), expected)
    mask = Image.new("L", (EDGE, EDGE), 0)
    mask.paste(255, (0, 0, EDGE // 2, EDGE))
    asked["files"] = files | {"mask_image": Attachment(png(mask))}
    painted = pixels(draw(engine, folder, control, **asked))
    assert (painted[:, 40:] == (200, 30, 30)).all()
    assert not numpy.array_equal(painted, pixels(draw(engine, folder, **asked)))


@pytest.mark.parametrize(
    ("control", "kind", "said"),
    [
        (Control("edgs", b"x"), "validation", "known are: edges, missing"),
        (Control("missing", b"x"), "load_failed", "cannot be read from"),
        (Control("edges", b"no picture"), "validation", "controlnet.image"),
    ],
)
def test_a_control_that_cannot_be_used_is_refused_with_the_reason(
    engine: DiffusersEngine, folder: Path, control: Control, kind: str, said: str
) -> None:
    plain = draw(engine, folder)
    with pytest.raises(EngineError) as refused:
        draw(engine, folder, control)
    assert refused.value.kind == kind and said in f"{refused.value} {refused.value.field}"
    assert draw(engine, folder) == plain


@pytest.mark.slow
def test_a_family_without_controlnets_says_so(tmp_path: Path) -> None:
    checkpoints.kandinsky3(tmp_path / "kandinsky3")
    made = create(CAPABILITIES["diffusers"])
    made.load(ModelFiles("m", tmp_path / "kandinsky3", {}))
    with pytest.raises(EngineError, match="Kandinsky3Pipeline takes no ControlNet"):
        draw(made, tmp_path, Control("edges", png(stripes())))
