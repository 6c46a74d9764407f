"""Files that people have: what is read from them, that they draw what they should, and what is said of the rest."""

import asyncio
import io
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stoker.schemas.catalog import Spec, weights_key
from stoker.schemas.jobs import Attachment, ImageInput
from stoker.schemas.samplers import SAMPLERS
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.images.schedulers import Schedulers, form_of, made
from stoker.services.worker.engines.images.self_test import check_draws
from stoker.services.worker.engines.registry import CAPABILITIES
from stoker.services.worker.models.weights.detect import UnknownCheckpoint, detect
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.fixtures.single_files import single_file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("profiles")
    checkpoints.sd15(found / "sd15")
    checkpoints.sd15(found / "inpaint", channels=9, kind=diffusers.StableDiffusionInpaintPipeline)
    for name in ("sd15", "inpaint"):
        single_file(found / name, found / f"{name}.safetensors")
    return found


@pytest.fixture
def engine() -> DiffusersEngine:
    return create(CAPABILITIES["diffusers"])


def png(mode: str = "RGB", colour: Any = (200, 30, 30)) -> Attachment:
    content = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(content, "PNG")
    return Attachment(content.getvalue())


def draw(engine: DiffusersEngine, **options: Any) -> Image.Image:
    run = options.pop("run", {})
    asked = ImageInput(**({"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2} | options))
    request = Request("job", asked, 5, options=run)
    made = asyncio.run(engine.run("m", request, Heard(), Cancellation()))
    assert isinstance(made, Images)
    return Image.open(io.BytesIO(made.images[0]))


def load(engine: DiffusersEngine, path: Path, **options: Any) -> None:
    engine.load(ModelFiles("m", path, options))


def changed(root: Path, path: Path, change: Any, name: str = "sd15") -> Path:
    """A single file with other tensors, its configurations beside it."""
    tensors = change(load_file(root / f"{name}.safetensors"))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    shutil.copytree(root / name, path.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    return path


# What files are -----------------------------------------------------------------------------------


def test_a_folder_that_has_half_precision_only_is_loaded(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(root / "sd15", tmp_path / "fp16")
    for weights in folder.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    assert detect(folder).variant == "fp16" and detect(root / "sd15").variant == ""
    load(engine, folder)
    assert draw(engine).size == (64, 64)


def test_a_mask_is_what_an_inpainting_file_is_for_and_without_one_it_draws_the_whole(
    engine: DiffusersEngine, root: Path
) -> None:
    for name in ("inpaint.safetensors", "inpaint"):
        found = detect(root / name)
        assert (found.pipeline_class, found.in_channels) == ("StableDiffusionInpaintPipeline", 9)
    load(engine, root / "inpaint.safetensors")
    assert draw(engine).getextrema() != ((128, 128),) * 3
    files = {"image": png(), "mask_image": png("L", 255)}
    assert draw(engine, files=files, width=None, height=None).size == (64, 64)
    assert draw(engine, files={"image": png()}, width=None, height=None).size == (64, 64)


def test_markers_say_what_a_unet_predicts(engine: DiffusersEngine, root: Path, tmp_path: Path) -> None:
    empty = torch.zeros(0)
    marked = changed(root, tmp_path / "v.safetensors", lambda known: known | {"v_pred": empty, "ztsnr": empty})
    assert detect(marked).scheduler == {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    load(engine, marked)
    config = engine._loaded["m"].pipeline.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)
    predicted = draw(engine)
    load(engine, root / "sd15.safetensors")
    assert draw(engine).tobytes() != predicted.tobytes()


def test_a_file_without_a_vae_takes_one_that_is_named(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    def without(known: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in known.items() if not name.startswith("first_stage_model.")}

    bare = changed(root, tmp_path / "bare.safetensors", without)
    assert detect(bare).missing == ("vae",)
    with pytest.raises(EngineError, match="has no VAE: name one with the option vae"):
        load(engine, bare)
    with pytest.raises(EngineError, match="nowhere is not there"):
        load(engine, bare, vae="nowhere")
    load(engine, bare, vae=str(root / "sd15" / "vae"))
    drawn = draw(engine)
    load(engine, root / "sd15")
    assert drawn.tobytes() == draw(engine).tobytes()


def test_old_checkpoints_with_a_defaultdict_are_read(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    tensors = load_file(root / "sd15.safetensors")
    torch.save({"state_dict": tensors, "callbacks": defaultdict(int), "epoch": 3}, tmp_path / "old.ckpt")
    shutil.copytree(root / "sd15", tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors"))
    load(engine, tmp_path / "old.ckpt")
    assert draw(engine).size == (64, 64)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"unet.down_blocks.0.x.lora_A.weight": torch.zeros(1)}, "is a LoRA"),
        ({"lora_unet_x.hada_w1_a": torch.zeros(1)}, "is a LoRA"),
        ({"down_blocks.0.conv.weight": torch.zeros(1)}, "is a UNet alone"),
        ({"decoder.conv_in.weight": torch.zeros(1)}, "is a VAE alone"),
        ({"x": torch.zeros(1)}, "of no known architecture"),
    ],
)
def test_what_is_something_else_is_called_by_its_name(tmp_path: Path, tensors: Any, said: str) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UnknownCheckpoint, match=said):
        detect(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!doctype html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
    ],
)
def test_what_is_no_weights_is_told_with_what_to_do(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UnknownCheckpoint, match=said):
        detect(tmp_path / "x.safetensors")


@pytest.mark.parametrize("wrapper", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("telltale", "pipeline"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "FluxPipeline"),
        ("joint_blocks.0.context_block.attn.qkv.weight", "StableDiffusion3Pipeline"),
        ("distilled_guidance_layer.in_proj.bias", "ChromaPipeline"),
        ("cap_embedder.0.weight", "Lumina2Pipeline"),
    ],
)
def test_a_transformer_alone_asks_for_the_rest(
    engine: DiffusersEngine, tmp_path: Path, wrapper: str, telltale: str, pipeline: str
) -> None:
    save_file({wrapper + telltale: torch.zeros(2, 2)}, tmp_path / "t.safetensors")
    assert detect(tmp_path / "t.safetensors").pipeline_class == pipeline
    assert hasattr(diffusers, pipeline) and hasattr(
        diffusers, detect(tmp_path / "t.safetensors").transformer_class
    )
    with pytest.raises(EngineError, match=r"transformer of a .* only; put the pipeline's directory"):
        load(engine, tmp_path / "t.safetensors")


def test_flux_fill_is_told_by_its_channels(tmp_path: Path) -> None:
    tensors = {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1, 1), "img_in.weight": torch.zeros(1, 384)}
    save_file(tensors, tmp_path / "f.safetensors")
    assert detect(tmp_path / "f.safetensors").pipeline_class == "FluxFillPipeline"


# Schedulers ---------------------------------------------------------------------------------------


def test_every_sampler_is_made_and_has_its_steps(root: Path) -> None:
    own = diffusers.DDIMScheduler.from_pretrained(root / "sd15" / "scheduler")
    for name in SAMPLERS:
        scheduler = made(own.config, type(own), name)
        scheduler.set_timesteps(8)
        assert type(scheduler).__name__ == SAMPLERS[name][0] and len(scheduler.timesteps) >= 8, name


@pytest.mark.slow
def test_every_sampler_draws(engine: DiffusersEngine, root: Path) -> None:
    load(engine, root / "sd15")
    for name in SAMPLERS:
        assert draw(engine, run={"scheduler": name}).size == (64, 64), name
        assert type(engine._loaded["m"].pipeline.scheduler).__name__ == SAMPLERS[name][0]


def test_a_scheduler_is_of_a_run_and_leaves_nothing_behind(engine: DiffusersEngine, root: Path) -> None:
    load(engine, root / "sd15")
    plain = draw(engine).tobytes()
    karras = draw(engine, run={"scheduler": "DPM++ 2M Karras"}).tobytes()
    assert karras != plain
    assert draw(engine).tobytes() == plain
    assert draw(engine, run={"scheduler": "dpm++_2m karras"}).tobytes() == karras
    specs = [
        Spec(name="s", engine="diffusers", url="file:///x", options=options)
        for options in ({}, {"scheduler": "lcm"})
    ]
    assert len({weights_key("m", spec) for spec in specs}) == 1  # the weights are in memory once


@pytest.mark.parametrize(
    "name", ["nope", "DDPMPipeline", "FlowMatchEulerDiscreteScheduler", "StableDiffusionPipeline"]
)
def test_what_is_no_scheduler_for_a_model_is_refused(engine: DiffusersEngine, root: Path, name: str) -> None:
    with pytest.raises(EngineError):
        load(engine, root / "sd15", scheduler=name)
    load(engine, root / "sd15")
    with pytest.raises(EngineError) as refused:
        draw(engine, run={"scheduler": name})
    assert (refused.value.kind, refused.value.field) == ("validation", "sampler")


def test_a_class_of_diffusers_may_be_named() -> None:
    assert form_of("HeunDiscreteScheduler") == ("HeunDiscreteScheduler", {})
    assert form_of("Euler  A") == ("EulerAncestralDiscreteScheduler", {})


def test_a_pipeline_without_a_scheduler_takes_none() -> None:
    class Bare:
        scheduler = None

    schedulers = Schedulers(Bare(), {})
    schedulers.use(Bare(), "")
    with pytest.raises(EngineError, match="takes no other"):
        schedulers.use(Bare(), "euler")


# Only what draws is hot ---------------------------------------------------------------------------


def test_weights_that_make_nothing_but_nan_are_never_hot(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    def broken(known: dict[str, Any]) -> dict[str, Any]:
        name = "model.diffusion_model.out.2.weight"
        return known | {name: torch.full_like(known[name], float("nan"))}

    with pytest.raises(EngineError, match="NaN") as refused:
        load(engine, changed(root, tmp_path / "nan.safetensors", broken))
    assert refused.value.kind == "load_failed"


def test_a_decoder_that_overflows_in_half_precision_runs_in_single(root: Path) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(root / "sd15", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert check_draws(pipeline) == ""
    plain = pipeline.vae.decode

    def overflowing(latents: Any, *given: Any, **named: Any) -> Any:
        """As a decoder does whose weights are too large for half precision."""
        made = plain(latents.to(pipeline.vae.dtype), *given, **named)
        if pipeline.vae.dtype != torch.float32:
            return tuple(part * float("nan") for part in made)
        return made

    pipeline.vae.to(torch.bfloat16)
    pipeline.vae.decode = overflowing
    assert "single precision" in check_draws(pipeline)
    assert pipeline.vae.dtype == torch.float32


def test_a_pipeline_that_makes_no_pictures_is_refused() -> None:
    class Video:
        def __call__(self, prompt: str = "") -> Any:
            return object()

    with pytest.raises(EngineError, match="Video makes neither pictures nor videos"):
        check_draws(Video())


def test_a_pipeline_that_cannot_be_called_is_refused_with_the_reason() -> None:
    class Broken:
        def __call__(self, prompt: str, image: Any, mask_image: Any = None, strength: float = 0.5) -> Any:
            raise ValueError(f"sizes {image.size} differ")

    with pytest.raises(
        EngineError, match=r"Broken was loaded and cannot draw: ValueError: sizes \(64, 64\) differ"
    ):
        check_draws(Broken())


def test_a_text_encoder_with_shorter_names_is_found(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    tensors = load_file(root / "sd15.safetensors")
    bare = {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, tmp_path / "bare.safetensors")
    shutil.copytree(root / "sd15", tmp_path / "bare")
    load(engine, root / "sd15")
    expected = draw(engine)
    engine.unload("m")
    load(engine, tmp_path / "bare.safetensors")
    assert list(draw(engine).getdata()) == list(expected.getdata())


def test_an_upscaler_is_sent_to_its_engine(tmp_path: Path) -> None:
    torch.save({"params_ema": {"conv.weight": torch.zeros(1)}}, tmp_path / "x4.pth")
    with pytest.raises(UnknownCheckpoint, match="engine: spandrel"):
        detect(tmp_path / "x4.pth")


def test_a_pipeline_of_a_controlnet_draws_from_a_picture(
    engine: DiffusersEngine, root: Path, tmp_path: Path
) -> None:
    checkpoints.controlnet(root / "sd15", tmp_path / "control")
    network = diffusers.ControlNetModel.from_pretrained(tmp_path / "control")
    whole = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        root / "sd15", controlnet=network, safety_checker=None
    )
    whole.save_pretrained(tmp_path / "whole")
    load(engine, tmp_path / "whole")
    assert draw(engine, files={"image": png()}).size == (64, 64)
    with pytest.raises(EngineError, match="send one as image"):
        draw(engine)
