"""The table of docs/models.md: every family of checkpoints, tried on tiny random ones; written by this test."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from stoker.schemas.catalog import Adapter
from stoker.schemas.drawing import Control
from stoker.schemas.jobs import Attachment, ImageInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.conftest import ROOT
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints, families
from tests.fixtures.lora_files import dora, kohya, loha, lokr, peft, saved
from tests.fixtures.single_files import single_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAGE = ROOT / "docs" / "models.md"
DENOISERS = ("unet", "transformer", "prior")
KINDS = ("LoRA (kohya)", "LoRA (peft)", "DoRA", "LoHa", "LoKr")
DRAWS, LEFT_OUT = "draws", "left out, and told"


class LoraLeftOut(EngineError):
    """The picture was drawn without it, and the answer says why."""


def png(mode: str, colour: Any) -> Attachment:
    content = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(content, "PNG")
    return Attachment(content.getvalue())


PICTURE, MASK = png("RGB", (200, 30, 30)), png("L", 255)


def half_precision(folder: Path) -> Path:
    for weights in folder.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    return folder


def whole_families(root: Path) -> dict[str, Path]:
    """What is tried, by its name in the table."""
    checkpoints.sd15(root / "sd15")
    checkpoints.sd15(root / "inpaint", channels=9, kind=diffusers.StableDiffusionInpaintPipeline)
    checkpoints.sdxl(root / "sdxl")
    for name in ("sd15", "inpaint", "sdxl"):
        single_file(root / name, root / f"{name}.safetensors")
    single_file(root / "sd15", root / "sd15.ckpt")
    checkpoints.sd15(root / "half")
    half_precision(root / "half")
    checkpoints.kandinsky22(root / "kandinsky22")
    checkpoints.kandinsky3(root / "kandinsky3")
    return {
        "SD1.x, folder": root / "sd15",
        "SD1.x, folder with fp16 only": root / "half",
        "SD1.x, single file": root / "sd15.safetensors",
        "SD1.x, .ckpt": root / "sd15.ckpt",
        "SD1.x inpainting, single file": root / "inpaint.safetensors",
        "SDXL, folder": root / "sdxl",
        "SDXL, single file": root / "sdxl.safetensors",
        "Kandinsky 2.2, folder": root / "kandinsky22",
        "Kandinsky 3, folder": root / "kandinsky3",
    } | {
        f"{name}, folder": families.made(name, root / name.replace(" ", "-"))
        for name in (*families.PICTURES, *families.VIDEOS)
    }


def tried(work: Callable[[], object]) -> str:
    """What a cell of the table says: it draws, or why it is refused. Anything else fails the test."""
    try:
        work()
    except EngineError as error:
        assert error.kind in ("validation", "load_failed"), error
        return LEFT_OUT if isinstance(error, LoraLeftOut) else f"refused: {error}"
    return DRAWS


def drawn(
    engine: DiffusersEngine,
    loras: tuple[Adapter, ...] = (),
    run_options: dict[str, Any] | None = None,
    **options: Any,
) -> str:
    asked = ImageInput(**({"prompt": "a cat", "num_inference_steps": 2} | options))

    def draw() -> None:
        made = asyncio.run(
            engine.run(
                "m", Request("j", asked, 1, loras=loras, options=run_options or {}), Heard(), Cancellation()
            )
        )
        assert isinstance(made, Images)
        if loras and "skipped_loras" in made.details:
            raise LoraLeftOut(made.details["skipped_loras"][0], "validation")

    return tried(draw)


def row(name: str, path: Path, folder: Path) -> list[str]:
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", path, {}))
    own: dict[str, Any] = {"num_frames": 9} if name.partition(",")[0] in families.VIDEOS else {}
    if "Kontext" in name:
        own = {"_auto_resize": False}
    if "refiner" in name:
        own = {"strength": 1.0}
    asked: dict[str, Any] = {"width": 64, "height": 64, "parameters": own}
    cells = [
        drawn(engine, **asked | ({"parameters": {}} if "refiner" in name else {})),
        drawn(engine, files={"image": PICTURE}, **asked),
        drawn(engine, files={"image": PICTURE, "mask_image": MASK}, **asked),
    ]
    if cells[0] != DRAWS:
        asked |= {"files": {"image": PICTURE} | ({"mask_image": MASK} if cells[1] != DRAWS else {})}
    pipeline = engine._loaded["m"].pipeline
    controls = {"controlnets": {"any": str(own_control(pipeline, folder / "control"))}}
    controlled = drawn(engine, run_options=controls, control=Control("any", PICTURE.content), **asked)
    cells.append("not tried" if "cannot be read" in controlled else controlled)
    loras = own_loras(pipeline, folder)
    return cells + [drawn(engine, (Adapter(name, str(file)),), **asked) for name, file in loras.items()]


def own_control(pipeline: Any, folder: Path) -> Path:
    """A ControlNet for what draws in this pipeline, where diffusers has one of its family."""
    if type(pipeline).__name__.startswith("StableDiffusion") and hasattr(pipeline, "unet"):
        made = diffusers.ControlNetModel.from_unet(
            pipeline.unet, conditioning_embedding_out_channels=(8, 8, 16, 32)
        )
        made.save_pretrained(folder)
    elif "SD3" in type(getattr(pipeline, "transformer", None)).__name__:
        made = diffusers.SD3ControlNetModel.from_transformer(
            pipeline.transformer, num_layers=1, num_extra_conditioning_channels=0
        )
        made.save_pretrained(folder)
    elif "QwenImage" in type(getattr(pipeline, "transformer", None)).__name__:
        sizes = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
        made = diffusers.QwenImageControlNetModel.from_transformer(pipeline.transformer, **sizes)
        made.save_pretrained(folder)
    elif "Flux" in type(getattr(pipeline, "transformer", None)).__name__:
        sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
        made = diffusers.FluxControlNetModel.from_transformer(pipeline.transformer, **sizes)
        made.save_pretrained(folder)
    return folder


def own_loras(pipeline: Any, folder: Path) -> dict[str, Path]:
    """A LoRA of each kind over one matrix of what draws in this pipeline, by the names that files have for it."""
    draws = next(part for name in DENOISERS if (part := getattr(pipeline, name, None)) is not None)
    module, matrix = next(
        (name, one)
        for name, one in draws.named_modules()
        if name.endswith(("to_k", "qkv")) and getattr(one, "weight", torch.empty(0)).ndim == 2
    )
    size = {"out": matrix.weight.shape[0], "dim": matrix.weight.shape[1]}
    made = {"LoRA (kohya)": kohya, "LoRA (peft)": peft, "DoRA": dora, "LoHa": loha}
    if size["out"] % 4 == 0 and size["dim"] % 8 == 0:
        made["LoKr"] = lokr
    prefix = {"prefix": "unet." if hasattr(pipeline, "unet") else "transformer."}
    return {
        name: saved(folder / f"{name}.safetensors", make(module, **size, **(prefix if make is peft else {})))
        for name, make in made.items()
    }


def test_every_family_draws_or_is_refused_with_a_reason(tmp_path: Path) -> None:
    rows = {name: row(name, path, tmp_path / "loras" / name) for name, path in whole_families(tmp_path).items()}
    assert all(DRAWS in cells[:3] for cells in rows.values()), rows
    assert rows["SD1.x, single file"] == [DRAWS] * 9
    heads = ["", "from text", "from a picture", "into a mask", "ControlNet", *KINDS]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += [
        "| " + " | ".join([name, *cells, *["not tried"] * (len(heads) - 1 - len(cells))]) + " |"
        for name, cells in rows.items()
    ]
    head, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->\n")
    PAGE.write_text(f"{head}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{tail}")
