"""The table of docs/models.md: every family of checkpoints, tried on tiny random ones; written by this test."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

from schemas.catalog import Adapter
from schemas.jobs import Attachment, ImageInput
from services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request
from services.worker.engines.images.diffusers import DiffusersEngine, create
from services.worker.engines.registry import CAPABILITIES
from tests.conftest import ROOT
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.fixtures.lora_files import ATTENTION, dora, kohya, loha, lokr, peft, saved
from tests.fixtures.single_files import single_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAGE = ROOT / "docs" / "models.md"
KEY = f"{ATTENTION}.to_k"
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


def families(root: Path) -> dict[str, Path]:
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
    }


def tried(work: Callable[[], object]) -> str:
    """What a cell of the table says: it draws, or why it is refused. Anything else fails the test."""
    try:
        work()
    except EngineError as error:
        assert error.kind in ("validation", "load_failed"), error
        return LEFT_OUT if isinstance(error, LoraLeftOut) else f"refused: {error}"
    return DRAWS


def drawn(engine: DiffusersEngine, loras: tuple[Adapter, ...] = (), **options: Any) -> str:
    asked = ImageInput(**({"prompt": "a cat", "num_inference_steps": 2} | options))

    def draw() -> None:
        made = asyncio.run(engine.run("m", Request("j", asked, 1, loras=loras), Heard(), Cancellation()))
        assert isinstance(made, Images)
        if loras and "skipped_loras" in made.details:
            raise LoraLeftOut(made.details["skipped_loras"][0], "validation")

    return tried(draw)


def row(path: Path, loras: dict[str, Path]) -> list[str]:
    engine = create(CAPABILITIES["diffusers"])
    engine.load(ModelFiles("m", path, {}))
    sized = {"width": 64, "height": 64}
    cells = [
        drawn(engine, **sized),
        drawn(engine, files={"image": PICTURE}),
        drawn(engine, files={"image": PICTURE, "mask_image": MASK}),
    ]
    return cells + [drawn(engine, (Adapter(name, str(file)),), **sized) for name, file in loras.items()]


def test_every_family_draws_or_is_refused_with_a_reason(tmp_path: Path) -> None:
    loras = {
        "LoRA (kohya)": saved(tmp_path / "l" / "kohya.safetensors", kohya(KEY)),
        "LoRA (peft)": saved(tmp_path / "l" / "peft.safetensors", peft(KEY)),
        "DoRA": saved(tmp_path / "l" / "dora.safetensors", dora(KEY)),
        "LoHa": saved(tmp_path / "l" / "loha.safetensors", loha(KEY)),
        "LoKr": saved(tmp_path / "l" / "lokr.safetensors", lokr(KEY)),
    }
    rows = {name: row(path, loras) for name, path in families(tmp_path).items()}
    assert all(cells[0] == DRAWS for cells in rows.values()), rows
    assert rows["SD1.x, single file"] == [DRAWS] * 8
    heads = ["", "from text", "from a picture", "into a mask", *loras]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items()]
    head, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->\n")
    PAGE.write_text(f"{head}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{tail}")
