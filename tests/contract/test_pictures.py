"""Pictures in and out of the real engines, on tiny random weights: edits, masks, NaN, formats, long prompts."""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from stoker.schemas.jobs import Attachment, ImageInput, UpscaleInput
from stoker.services.worker.engines.base import Cancellation, EngineError, Images, ModelFiles, Request, Task
from stoker.services.worker.engines.images import prompts
from stoker.services.worker.engines.images.diffusers import DiffusersEngine, create
from stoker.services.worker.engines.images.spandrel import SpandrelEngine
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.contract.test_diffusers_engine import Heard
from tests.fixtures import checkpoints
from tests.unit.worker.images.made import CORNERS, cornered, corners, file_of, opened, oriented, text_bomb

LONG = " ".join("abcdefghij"[index % 10] for index in range(140))
"""140 tokens: two pieces; more than any of the pipelines here reads at once."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for make in (checkpoints.sd15, checkpoints.sdxl, checkpoints.kandinsky22, checkpoints.kandinsky3):
        make(root / make.__name__)
    checkpoints.upscaler(root / "upscaler.pth")
    return root


@pytest.fixture(scope="module")
def engine(root: Path) -> DiffusersEngine:
    engine = create(CAPABILITIES["diffusers"])
    for name in ("sd15", "sdxl", "kandinsky22", "kandinsky3"):
        engine.load(ModelFiles(name, root / name, {}))
    return engine


@pytest.fixture(scope="module")
def upscaler(root: Path) -> SpandrelEngine:
    engine = SpandrelEngine(CAPABILITIES["spandrel"])
    engine.load(ModelFiles("up", root / "upscaler.pth", {}))
    return engine


def asked(prompt: str = "a cat", files: dict[str, bytes] | None = None, **options: Any) -> ImageInput:
    attached = {name: Attachment(content) for name, content in (files or {}).items()}
    size = {} if files else {"width": 64, "height": 64}
    return ImageInput(prompt, files=attached, **({"num_inference_steps": 2} | size | options))


def draw(engine: DiffusersEngine, model: str, drawn: ImageInput, seed: int = 5) -> Images:
    found = asyncio.run(engine.run(model, Request("j", drawn, seed, title=model), Heard(), Cancellation()))
    assert isinstance(found, Images)
    return found


def edited(
    engine: DiffusersEngine, model: str = "sd15", image: Image.Image | bytes | None = None, **options: Any
) -> Image.Image:
    """One picture, drawn from another; mask: of it."""
    mask = options.pop("mask", None)
    content = image if isinstance(image, bytes) else file_of(image or cornered(128, 64))
    files = {"image": content} | ({"mask_image": file_of(mask)} if mask is not None else {})
    return opened(draw(engine, model, asked(files=files, **options)).images[0])


def enlarged(engine: SpandrelEngine, content: bytes, **options: Any) -> Images:
    wanted = UpscaleInput({"image": Attachment(content)}, **({"magnitude": 1} | options))
    found = asyncio.run(engine.run("up", Request("j", wanted, 0), Heard(), Cancellation()))
    assert isinstance(found, Images)
    return found


def left_half(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize(
    ("model", "has_mask"),
    [("sd15", False), ("sd15", True), ("sdxl", False), ("sdxl", True), ("kandinsky22", False)],
)
def test_an_edit_has_the_size_of_its_picture(engine: DiffusersEngine, model: str, has_mask: bool) -> None:
    size = (126, 70)
    mask = left_half(size) if has_mask else None
    out = edited(engine, model, cornered(*size), mask=mask, parameters={"strength": 0.9})
    assert out.size == size


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_what_a_mask_keeps_is_kept_to_the_last_bit_and_the_rest_is_drawn(
    engine: DiffusersEngine, model: str
) -> None:
    picture = Image.effect_noise((128, 64), 80).convert("RGB")
    out = edited(engine, model, picture, mask=left_half((128, 64)), parameters={"strength": 1.0})
    kept, drawn = (70, 0, 128, 64), (0, 0, 60, 64)
    assert out.crop(kept).tobytes() == picture.crop(kept).tobytes()
    assert ImageChops.difference(out.crop(drawn), picture.crop(drawn)).getbbox() is not None


def test_an_edit_without_a_mask_draws_where_the_picture_is_transparent(engine: DiffusersEngine) -> None:
    picture = cornered(128, 64)
    picture.putalpha(ImageChops.invert(left_half((128, 64))))
    out = edited(engine, image=picture, draws_transparent=True)
    assert corners(out)[1::2] == [CORNERS[1], CORNERS[3]]
    assert corners(out)[0] != CORNERS[0]


def test_a_picture_is_turned_before_it_is_drawn_from(engine: DiffusersEngine) -> None:
    stored = oriented(6, "JPEG", cornered(128, 64))
    assert edited(engine, image=stored, parameters={"strength": 0.5}).size == (64, 128)


def test_sixteen_bits_are_drawn_from_like_the_eight_that_they_mean(engine: DiffusersEngine) -> None:
    deep = edited(engine, image=Image.new("I;16", (64, 64), 20000), parameters={"strength": 0.5})
    plain = edited(engine, image=Image.new("L", (64, 64), 78), parameters={"strength": 0.5})
    white = edited(engine, image=Image.new("L", (64, 64), 255), parameters={"strength": 0.5})
    assert deep.tobytes() == plain.tobytes() != white.tobytes()


@pytest.mark.parametrize("model", ["sd15", "sdxl", "kandinsky22"])
@pytest.mark.parametrize(("steps", "strength"), [(4, 0.1), (1, None), (49, 0.001), (1, 0.5)])
def test_a_low_strength_takes_one_step(
    engine: DiffusersEngine, model: str, steps: int, strength: float | None
) -> None:
    parameters = {} if strength is None else {"strength": strength}
    if model == "kandinsky22" and steps == 49:
        parameters |= {"prior_num_inference_steps": 2}
    for mask in (None, left_half((64, 64))):
        if mask is not None and model == "kandinsky22":
            continue
        out = edited(
            engine, model, cornered(64, 64), mask=mask, num_inference_steps=steps, parameters=parameters
        )
        assert out.size == (64, 64)


def test_a_mask_for_weights_that_draw_no_parts_is_an_error_and_transparency_is_none(
    engine: DiffusersEngine,
) -> None:
    with pytest.raises(EngineError, match="cannot do inpaint with these weights"):
        edited(engine, "kandinsky22", mask=left_half((128, 64)))
    clear = cornered(64, 64)
    clear.putalpha(left_half((64, 64)))
    assert edited(engine, "kandinsky22", clear, draws_transparent=True).size == (64, 64)


def test_strength_zero_gives_the_picture_as_it_was(engine: DiffusersEngine) -> None:
    picture = Image.effect_noise((100, 60), 80).convert("RGB")
    assert edited(engine, image=picture, parameters={"strength": 0}).tobytes() == picture.tobytes()
    two = draw(engine, "sd15", asked(files={"image": file_of(picture)}, n=2, parameters={"strength": 0.0}))
    assert [opened(one).tobytes() for one in two.images] == [picture.tobytes()] * 2


@pytest.mark.parametrize("name", ["image", "mask_image"])
def test_what_is_no_picture_is_an_error_of_its_field(engine: DiffusersEngine, name: str) -> None:
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n", text_bomb(8 * 2**20), b"x"):
        files = {"image": file_of(cornered()), name: content}
        with pytest.raises(EngineError) as found:
            draw(engine, "sd15", asked(files=files, fields={"mask_image": "mask"}))
        field = "mask" if name == "mask_image" else "image"
        assert (found.value.kind, found.value.field) == ("validation", field)


def test_an_error_of_a_pipeline_shows_no_address(engine: DiffusersEngine) -> None:
    with pytest.raises(EngineError) as found:
        draw(
            engine, "sd15", asked(files={"image": file_of(cornered(64, 64))}, parameters={"prompt_embeds": "x"})
        )
    assert " at 0x" not in str(found.value)
    image = Image.new("RGB", (2, 2))
    assert str(EngineError(f"no {image!r}, no {object()!r}, but <b> at 0x10")) == (
        "no PIL.Image.Image image mode=RGB size=2x2, no object, but <b> at 0x10"
    )


def damaged(engine: DiffusersEngine, root: Path, model: str, part: str, value: float) -> Any:
    """A model of which the last weights of a part are a number; its pipeline."""
    engine.load(ModelFiles(model, root / "sd15", {}))
    pipeline = engine._loaded[model].pipeline
    weights = {"decoder": pipeline.vae.decoder.conv_out, "unet": pipeline.unet.conv_out}[part]
    torch.nn.init.constant_(weights.weight, value)
    return pipeline


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [("decoder", float("nan"), "the decoder's output is"), ("unet", float("inf"), "what was drawn is")],
)
def test_a_picture_of_nan_is_an_error_that_says_what_to_try(
    engine: DiffusersEngine, root: Path, part: str, said: str, value: float
) -> None:
    damaged(engine, root, "nan", part, value)
    with pytest.raises(EngineError, match=r"NaN.*dtype: fp32") as found:
        draw(engine, "nan", asked())
    assert said in str(found.value) and (found.value.kind, found.value.code) == ("fatal", "nan_picture")
    engine.unload("nan")


def test_a_decoder_that_overflows_in_half_precision_decodes_once_more_in_single(
    engine: DiffusersEngine, root: Path
) -> None:
    engine.load(ModelFiles("half", root / "sd15", {"dtype": "fp16", "device": "cpu"}))
    pipeline = engine._loaded["half"].pipeline
    with torch.no_grad():
        pipeline.vae.decoder.conv_in.weight.mul_(60_000)
    latents = torch.randn(1, 4, 32, 32, dtype=torch.float16)
    assert not torch.isfinite(pipeline.vae.decode(latents).sample).all()
    drawn = draw(engine, "half", asked(num_inference_steps=1))
    assert {str(one.dtype) for one in pipeline.vae.parameters()} == {"torch.float16"}
    assert all(len(set(opened(image).tobytes())) > 2 for image in drawn.images)  # not black, not one grey
    engine.unload("half")


def test_of_pictures_that_are_drawn_together_only_those_that_are_nan_fail(
    engine: DiffusersEngine, root: Path
) -> None:
    pipeline = damaged(engine, root, "one", "decoder", 0.01)
    embedding = pipeline.text_encoder.get_input_embeddings()
    with torch.no_grad():
        embedding.weight[pipeline.tokenizer.convert_tokens_to_ids("z</w>")] = float("nan")
    tasks = [
        Task(Request(f"j{word}", asked(word, guidance_scale=1.0), 1), Heard(), Cancellation())
        for word in ("a", "z", "b")
    ]
    first, second, third = asyncio.run(engine.run_together("one", tasks))
    assert isinstance(first, Images) and isinstance(third, Images)
    assert isinstance(second, EngineError) and second.code == "nan_picture"
    engine.unload("one")


def test_an_upscaler_whose_output_is_nan_gives_an_error(root: Path) -> None:
    engine = SpandrelEngine(CAPABILITIES["spandrel"])
    engine.load(ModelFiles("up", root / "upscaler.pth", {}))
    with torch.no_grad():
        next(engine._models["up"].model.parameters()).fill_(float("nan"))
    with pytest.raises(EngineError, match="NaN"):
        enlarged(engine, file_of(cornered()))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_that_is_asked_for_and_say_how_they_were_made(
    engine: DiffusersEngine, kind: str
) -> None:
    drawn = draw(
        engine, "sd15", asked(negative_prompt="a dog", guidance_scale=2.0, output_format=kind, quality=80)
    )
    assert drawn.pictures[0].content_type == f"image/{kind}"
    assert drawn.pictures[0].image_bytes == len(drawn.images[0])
    image = opened(drawn.images[0])
    assert (image.format, image.size) == (kind.upper(), (64, 64))
    comment = image.getexif().get_ifd(0x8769).get(0x9286, b"")[8:].decode("utf-16-be")
    assert (image.info.get("parameters") or comment) == (
        "a cat\nNegative prompt: a dog\nSteps: 2, Sampler: DDIM, CFG scale: 2.0, Seed: 5, Size: 64x64, Model: sd15, "
        "Version: stoker"
    )


def test_an_option_leaves_out_the_prompt_and_another_all_of_it(engine: DiffusersEngine, root: Path) -> None:
    texts = []
    for options in ({"png_prompt": False}, {"png_parameters": False}):
        engine.load(ModelFiles("quiet", root / "sd15", options))
        texts.append(opened(draw(engine, "quiet", asked()).images[0]).info.get("parameters"))
    assert texts == ["Steps: 2, Sampler: DDIM, Seed: 5, Size: 64x64, Model: quiet, Version: stoker", None]
    engine.unload("quiet")


def test_an_edit_says_its_strength(engine: DiffusersEngine) -> None:
    image = edited(engine, parameters={"strength": 0.75}, num_inference_steps=4)
    assert "Steps: 4, " in image.info["parameters"] and "Denoising strength: 0.75" in image.info["parameters"]


# prompts


def plain(pipeline: Any, prompt: Any, negative: Any) -> list[torch.Tensor]:
    """What the pipeline itself makes of prompts that fit."""
    device = torch.device("cpu")
    given = {"negative_prompt": negative}
    with torch.inference_mode():
        if prompts._is_xl(pipeline):
            return list(pipeline.encode_prompt(prompt, None, device, 1, True, **given))
        return list(pipeline.encode_prompt(prompt, device, 1, True, **given))


@pytest.mark.parametrize("skip", [None, 0])
@pytest.mark.parametrize("negative", [None, "a dog"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_one_piece_is_what_the_pipeline_makes_of_a_prompt(
    engine: DiffusersEngine, model: str, count: int, negative: str | None, skip: int | None
) -> None:
    pipeline = engine._loaded[model].pipeline
    prompt: Any = "a cat, a mat" if count == 1 else ["a cat", "b"]
    minus: Any = negative if count == 1 or negative is None else [negative] * 2
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    given = {"prompt": prompt, "negative_prompt": minus} | ({"clip_skip": skip} if skip is not None else {})
    made = prompts.in_pieces(pipeline, {name: value for name, value in given.items() if value is not None}, 1)
    for name, wanted in zip(names, plain(pipeline, prompt, minus), strict=False):
        assert made[name].shape == wanted.shape and torch.equal(made[name], wanted), name


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_long_prompt_is_its_pieces_laid_end_to_end(engine: DiffusersEngine, model: str) -> None:
    pipeline = engine._loaded[model].pipeline
    pieces = [" ".join(LONG.split()[at : at + 75]) for at in range(0, 140, 75)]
    assert prompts.pieces_of(pipeline, [LONG]) == 2 and prompts.pieces_of(pipeline, [pieces[0], None]) == 1
    made = prompts.in_pieces(pipeline, {"prompt": LONG, "negative_prompt": "a"}, 2)
    wanted = torch.cat([plain(pipeline, one, "")[0] for one in pieces], dim=1)
    assert made["prompt_embeds"].shape[1] == 2 * 77
    assert torch.allclose(made["prompt_embeds"], wanted, atol=1e-5)
    assert made["negative_prompt_embeds"].shape == made["prompt_embeds"].shape
    if model == "sdxl":
        assert torch.allclose(made["pooled_prompt_embeds"], plain(pipeline, pieces[0], "")[2], atol=1e-5)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_the_end_of_a_long_prompt_changes_the_picture(engine: DiffusersEngine, model: str) -> None:
    texts = (LONG, LONG + " z", LONG.rpartition(" ")[0])
    drawn = [draw(engine, model, asked(text, guidance_scale=5.0)) for text in texts]
    assert len({one.images[0] for one in drawn}) == 3
    assert all("cut_prompt_tokens" not in one.details for one in drawn)
    image = opened(drawn[0].images[0])
    assert image.info["parameters"].startswith(LONG)
    longer = draw(engine, model, asked("a", negative_prompt=LONG, guidance_scale=5.0))
    assert (
        longer.images[0]
        != draw(engine, model, asked("a", negative_prompt=LONG + " z", guidance_scale=5.0)).images[0]
    )


def test_long_prompts_work_for_edits_and_several_pictures(engine: DiffusersEngine) -> None:
    drawn = draw(engine, "sd15", asked(LONG, n=2))
    assert opened(drawn.images[0]).tobytes() != opened(drawn.images[1]).tobytes()
    for model in ("sd15", "sdxl"):
        picture = file_of(cornered(64, 64))
        for files in ({"image": picture}, {"image": picture, "mask_image": file_of(left_half((64, 64)))}):
            assert draw(engine, model, asked(LONG, files=files)).images


def test_long_and_short_prompts_that_are_drawn_together_are_what_they_are_alone(
    engine: DiffusersEngine,
) -> None:
    texts = ("a cat", LONG, "b", LONG + " z")
    tasks = [
        Task(Request(f"j{i}", asked(text), i, title="sd15"), Heard(), Cancellation())
        for i, text in enumerate(texts)
    ]
    for index, together in enumerate(asyncio.run(engine.run_together("sd15", tasks))):
        assert isinstance(together, Images)
        alone = draw(engine, "sd15", asked(texts[index]), seed=index)
        pair = [opened(one.images[0]).tobytes() for one in (together, alone)]
        assert max(abs(a - b) for a, b in zip(*pair, strict=True)) <= 2


@pytest.mark.parametrize(("model", "reads"), [("kandinsky22", 75), ("kandinsky3", 128)])
def test_a_pipeline_that_cuts_prompts_says_how_much(engine: DiffusersEngine, model: str, reads: int) -> None:
    fitting, long = ("a " * reads if model == "kandinsky22" else "a" * reads), LONG
    extra = {"parameters": {"prior_num_inference_steps": 2}} if model == "kandinsky22" else {}
    assert draw(engine, model, asked(fitting.strip(), **extra)).details.get("cut_prompt_tokens") is None
    told = draw(engine, model, asked(long, **extra)).details["cut_prompt_tokens"]
    pipeline = engine._loaded[model].pipeline
    tokenizer = getattr(pipeline, "prior_tokenizer", None) or pipeline.tokenizer
    assert told == len(tokenizer(long, add_special_tokens=False)["input_ids"]) - reads


# enlarging


def test_transparency_is_enlarged_too(upscaler: SpandrelEngine) -> None:
    picture = cornered()
    picture.putalpha(left_half(picture.size))
    for kind in ("png", "webp"):
        image = opened(enlarged(upscaler, file_of(picture), output_format=kind, quality=100).images[0]).convert(
            "RGBA"
        )
        assert image.size == (64, 32)
        alpha = image.getchannel("A")
        assert (alpha.getpixel((10, 16)), alpha.getpixel((54, 16))) == (255, 0)
    jpeg = opened(enlarged(upscaler, file_of(picture), output_format="jpeg").images[0])
    assert min(jpeg.getpixel((54, 16))) > 240  # type: ignore[arg-type]


def test_the_colours_are_those_of_the_picture_without_its_alpha(upscaler: SpandrelEngine) -> None:
    picture = cornered()
    picture.putalpha(left_half(picture.size))
    out = opened(enlarged(upscaler, file_of(picture)).images[0])
    assert out.convert("RGB").tobytes() == opened(enlarged(upscaler, file_of(cornered())).images[0]).tobytes()


@pytest.mark.parametrize(("content", "like"), [
    (file_of(Image.new("I;16", (16, 16), 20000)), file_of(Image.new("L", (16, 16), 78))),
    (oriented(6, "PNG", cornered().transpose(Image.Transpose.ROTATE_90)), file_of(cornered())),
])  # fmt: skip
def test_what_is_enlarged_is_what_the_picture_means(
    upscaler: SpandrelEngine, content: bytes, like: bytes
) -> None:
    assert enlarged(upscaler, content).images == enlarged(upscaler, like).images


def test_what_cannot_be_enlarged_is_an_error_of_the_field_file(upscaler: SpandrelEngine) -> None:
    contents: Sequence[bytes] = (b"%!PS-Adobe-3.0 EPSF-3.0\n", text_bomb(), io.BytesIO(b"GIF89a").getvalue())
    for content in contents:
        with pytest.raises(EngineError) as found:
            enlarged(upscaler, content)
        assert (found.value.kind, found.value.field) == ("validation", "file")
