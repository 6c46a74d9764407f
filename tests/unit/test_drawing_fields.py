"""What all ways to ask for a picture share: who reads it, which values it may have, and what the model says."""

from typing import Any

import msgspec
import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from stoker.schemas.a1111 import Img2ImgRequest, Txt2ImgRequest
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.discovery import Inputs, Method, Parameter, Schema, makes_videos
from stoker.schemas.drawing import MAX_CLIP_SKIP, Control, ControlRequest, DrawingFields, HiresFix, Variation
from stoker.schemas.jobs import CallInput, ImageInput, work_units
from stoker.schemas.openai import ImageEditRequest, ImageGenerationRequest
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.a1111_requests import CLIP_SKIP, drawing_input, ignored_settings
from stoker.services.gateway.jobs.discovered import discovered_input
from stoker.services.gateway.jobs.drawing_fields import as_asked, whole_number, with_subseed
from stoker.services.gateway.jobs.requests import JobRequest, edit_input, generation_input, job_input
from stoker.services.gateway.routes.modes import GenerateRequest
from stoker.services.gateway.routes.modes import generation_input as mode_input

SPEC = Spec(name="s", engine="diffusers", url="x")


def model(**defaults: Any) -> Model:
    return Model("m", ("ImageGeneration",), (SPEC,), defaults=defaults)


def job(known: Model, **given: Any) -> ImageInput:
    drawn, _ = job_input(JobRequest(model="m", input={"prompt": "x", **given}), known)
    assert isinstance(drawn, ImageInput)
    return drawn


def asked_everywhere(known: Model, **given: Any) -> list[ImageInput]:
    """One request in each of the forms that have the shared fields."""
    return [
        generation_input(ImageGenerationRequest(prompt="x", model="m", **given), known),
        edit_input(ImageEditRequest(prompt="x", model="m", **given), known),
        mode_input(GenerateRequest(prompt="x", **given), known),
        job(known, **given),
    ]


def test_every_way_to_ask_has_the_shared_fields() -> None:
    values: dict[str, Any] = {"prompt_weights": True, "clip_skip": 3}
    for drawn in asked_everywhere(model(), **values):
        assert {name: getattr(drawn, name) for name in values} == values
    asked = GenerateRequest(prompt="x", **values)
    assert as_asked(asked).items() >= values.items()
    assert as_asked(asked).keys() == {one.name for one in msgspec.structs.fields(DrawingFields)}


def test_brackets_are_text_and_no_layer_is_left_out_unless_somebody_says_so() -> None:
    for drawn in asked_everywhere(model()):
        assert (drawn.prompt_weights, drawn.clip_skip) == (False, None)


def test_the_model_says_what_a_request_leaves_open() -> None:
    known = model(prompt_weights=True, clip_skip=2)
    for drawn in asked_everywhere(known):
        assert (drawn.prompt_weights, drawn.clip_skip) == (True, 2)
    for drawn in asked_everywhere(known, prompt_weights=False, clip_skip=1):
        assert (drawn.prompt_weights, drawn.clip_skip) == (False, 1)


@pytest.mark.parametrize("skip", [0, -1, MAX_CLIP_SKIP + 1])
def test_a_skip_out_of_range_is_refused(skip: int) -> None:
    for make in (lambda: asked_everywhere(model(), clip_skip=skip), lambda: job(model(), clip_skip=skip)):
        with pytest.raises(RequestError) as refused:
            make()
        assert (refused.value.status, refused.value.field) == (400, "clip_skip")


def test_a_skip_of_discovery_is_the_pipelines_own() -> None:
    parameters = {"prompt": Parameter("prompt", True), "clip_skip": Parameter("clip_skip", False, None, "int")}
    schema = Schema("m", "P", "sd15", ("text-to-image",), Inputs((), ()), {"__call__": Method(parameters)}, {})
    known = model(prompt_weights=True, clip_skip=2)
    drawn, _, _ = discovered_input(schema, known, {"prompt": "x"})
    assert (drawn.prompt_weights, drawn.clip_skip, drawn.parameters) == (True, 2, {})
    drawn, _, _ = discovered_input(schema, known, {"prompt": "x", "clip_skip": 3})
    assert (drawn.clip_skip, drawn.parameters) == (None, {"clip_skip": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images_per_prompt", [1]), ("num_images_per_prompt", {}), ("eta", [0.5]), ("eta", {"a": 1}),
        ("sigmas", [0.5, 2**64]), ("eta", 2**64), ("num_images_per_prompt", 2**70),
    ],
)  # fmt: skip
def test_discovery_refuses_what_no_annotation_names_and_what_no_message_holds(name: str, value: Any) -> None:
    kinds = {"prompt": "str", "num_images_per_prompt": "int | None", "eta": "float", "sigmas": "list[float]"}
    parameters = {one: Parameter(one, one == "prompt", None, kind) for one, kind in kinds.items()}
    schema = Schema("m", "P", "sd15", ("text-to-image",), Inputs((), ()), {"__call__": Method(parameters)}, {})
    with pytest.raises(RequestError) as refused:
        discovered_input(schema, model(), {"prompt": "x", name: value})
    assert (refused.value.status, refused.value.field) == (400, name)
    drawn, _, _ = discovered_input(schema, model(), {"prompt": "x", "sigmas": [1.0, 0.5]})
    assert drawn.parameters == {"sigmas": [1.0, 0.5]}


# Hires fix, variations, tiles ---------------------------------------------------------------------


def test_a_second_pass_is_asked_for_in_a1111s_words() -> None:
    given: dict[str, Any] = {
        "enable_hr": True,
        "hr_scale": 1.5,
        "hr_upscaler": "lanczos",
        "hr_second_pass_steps": 7,
    }
    for drawn in (
        generation_input(ImageGenerationRequest(prompt="x", model="m", **given), model()),
        mode_input(GenerateRequest(prompt="x", **given), model()),
        job(model(), **given),
        drawing_input(Txt2ImgRequest(prompt="x", **given), model(), {}),
    ):
        assert drawn.hires == HiresFix(scale=1.5, upscaler="Lanczos", steps=7, strength=0.75)
    assert job(model(), hr_scale=3.0, denoising_strength=0.5).hires is None
    sized = job(model(), enable_hr=True, hr_resize_x=768, hr_resize_y=512, denoising_strength=0.3)
    assert sized.hires == HiresFix(width=768, height=512, strength=0.3)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"hr_scale": 0.5}, "hr_scale"),
        ({"hr_scale": 5.0}, "hr_scale"),
        ({"hr_scale": 4.0, "width": 1024, "height": 512}, "hr_scale"),
        ({"hr_resize_x": 2048, "width": 512, "height": 1024}, "hr_resize_x"),
        ({"hr_resize_y": 4096}, "hr_resize_y"),
        ({"hr_second_pass_steps": 999}, "hr_second_pass_steps"),
        ({"denoising_strength": 1.5}, "denoising_strength"),
        ({"hr_upscaler": "R-ESRGAN 4x+"}, "hr_upscaler"),
    ],
)
def test_a_second_pass_that_cannot_be_is_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as refused:
        job(model(), enable_hr=True, **given)
    assert (refused.value.status, refused.value.field) == (400, field)
    if "width" not in given:
        assert job(model(), **given).hires is None  # nobody asks for one


@generated(
    st.integers(8, 256), st.integers(8, 256), st.floats(1, 4), st.integers(0, 2048), st.integers(0, 2048)
)
def test_the_size_of_a_second_pass_is_what_is_asked_for(
    width: int, height: int, scale: float, wide: int, high: int
) -> None:
    size = HiresFix(scale=scale, width=wide, height=high).size(width * 8, height * 8)
    assert all(edge % 8 == 0 for edge in size)
    if wide or high:
        assert (not wide or 0 <= wide - size[0] < 8) and (not high or 0 <= high - size[1] < 8)
    else:
        assert all(0 <= 8 * edge * scale - made < 8 for edge, made in zip((width, height), size, strict=True))


def test_a_variation_has_a_seed_and_one_by_chance_is_chosen_once() -> None:
    drawn = job(model(), subseed=7, subseed_strength=0.5, tiling=True)
    assert (drawn.variation, drawn.tiling) == (Variation(7, 0.5), True)
    assert job(model(), subseed=7).variation is None
    assert with_subseed(drawn, 1) is drawn and with_subseed(CallInput(), 1) == CallInput()
    chosen = [with_subseed(job(model(), subseed_strength=0.5), seed) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert (
        isinstance(chosen[0], ImageInput) and chosen[0].variation is not None and chosen[0].variation.seed >= 0
    )
    assert [drawn.seed_of(5, index) for index in (0, 1)] == [5, 5] != [job(model()).seed_of(5, 1)]
    for field, value in (("subseed", -2), ("subseed_strength", 1.5)):
        with pytest.raises(RequestError) as refused:
            job(model(), **{field: value})
        assert refused.value.field == field


def test_more_work_takes_more_time() -> None:
    plain = ImageInput("x", num_inference_steps=10, n=2)
    twice = msgspec.structs.replace(plain, hires=HiresFix(scale=2.0, strength=0.5))
    assert (work_units(plain), work_units(twice)) == (20.0, 60.0)


@pytest.mark.parametrize(
    ("given", "field"), [({"enable_hr": True}, "enable_hr"), ({"subseed_strength": 0.5}, "subseed_strength")]
)
def test_what_is_for_drawing_from_text_is_refused_with_a_picture(given: dict[str, Any], field: str) -> None:
    for make in (
        lambda: edit_input(ImageEditRequest(prompt="x", model="m", **given), model()),
        lambda: drawing_input(Img2ImgRequest(prompt="x", init_images=("AA",), **given), model(), {}),
    ):
        with pytest.raises(RequestError) as refused:
            make()
        assert refused.value.field == field
    assert edit_input(ImageEditRequest(prompt="x", model="m", denoising_strength=0.4), model()).parameters == {
        "strength": 0.4
    }


# A1111 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "read"), [(2, 2), (2.0, 2), ("2", 2), (None, None)])
def test_a1111s_setting_is_read_however_it_is_written(value: Any, read: int | None) -> None:
    asked = Txt2ImgRequest(prompt="x", override_settings={CLIP_SKIP: value})
    drawn = drawing_input(asked, model(), {})
    assert (drawn.clip_skip, drawn.prompt_weights) == (read, True)


@pytest.mark.parametrize("value", ["two", 1.5, True, [2], {}, 0, 99, "nan", "inf", 10**400])
def test_a_setting_that_is_no_number_of_layers_is_refused(value: Any) -> None:
    asked = Txt2ImgRequest(prompt="x", override_settings={CLIP_SKIP: value})
    with pytest.raises(RequestError) as refused:
        drawing_input(asked, model(), {})
    assert (refused.value.status, refused.value.field) == (400, f"override_settings.{CLIP_SKIP}")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"enable_hr": True, "hr_prompt": "another"}, "hr_prompt"),
        ({"enable_hr": True, "hr_sampler_name": "DDIM"}, "hr_sampler_name"),
        ({"enable_hr": True, "hr_checkpoint_name": "other"}, "hr_checkpoint_name"),
        ({"seed_resize_from_w": 512}, "seed_resize_from_w"),
    ],
)
def test_what_the_second_pass_cannot_have_is_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as refused:
        drawing_input(Txt2ImgRequest(prompt="x", **given), model(), {})
    assert refused.value.field == field
    same = {"hr_sampler_name": "Use same sampler", "hr_scheduler": None, "seed_resize_from_w": -1}
    assert drawing_input(Txt2ImgRequest(prompt="x", enable_hr=True, **same), model(), {}).hires is not None
    assert drawing_input(Txt2ImgRequest(prompt="x", hr_prompt="unused"), model(), {}).hires is None


@pytest.mark.parametrize(
    ("given", "inverts", "fills"),
    [({}, False, False), ({"inpainting_mask_invert": 1}, True, False), ({"inpainting_fill": 0}, False, True)],
)
def test_masks_are_inverted_and_filled_where_there_is_one(
    given: dict[str, Any], inverts: bool, fills: bool
) -> None:
    asked = Img2ImgRequest(prompt="x", init_images=("AA",), mask="AA", **given)
    drawn = drawing_input(asked, model(), {})
    assert (drawn.inverts_mask, drawn.fills_mask) == (inverts, fills)
    bare = drawing_input(msgspec.structs.replace(asked, mask=None), model(), {})
    assert (bare.inverts_mask, bare.fills_mask) == (False, False)


def test_settings_that_mean_nothing_here_are_told() -> None:
    settings = {"sd_model_checkpoint": "m", CLIP_SKIP: 2, "eta_noise_seed_delta": 31337}
    told = ignored_settings(Txt2ImgRequest(prompt="x", override_settings=settings))
    assert told == ["override_settings.eta_noise_seed_delta"]
    assert whole_number(None, "x") is None


PICTURE = "data:image/png;base64,aGVsbG8="
CONTROLLED = Model(
    "m", ("ImageGeneration",), (msgspec.structs.replace(SPEC, options={"controlnets": {"edges": "/x"}}),)
)


def test_every_way_to_ask_takes_a_control() -> None:
    asked = ControlRequest("edges", PICTURE, 0.5, 0.1, 0.9)
    for drawn in asked_everywhere(CONTROLLED, controlnet=asked)[:3]:
        assert drawn.control == Control("edges", b"hello", 0.5, 0.1, 0.9)
    assert job(CONTROLLED, controlnet={"model": "edges", "image": PICTURE}).control == Control(
        "edges", b"hello"
    )


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"model": "edgs"}, "controlnet.model"),
        ({"image": "no base64!"}, "controlnet.image"),
        ({"image": ""}, "controlnet.image"),
        ({"weight": 3.0}, "controlnet.weight"),
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "controlnet.guidance_end"),
        ({"guidance_end": 1.5}, "controlnet.guidance_end"),
    ],
)
def test_a_control_that_cannot_be_meant_is_400(wrong: dict[str, Any], field: str) -> None:
    asked = ControlRequest(**{"model": "edges", "image": PICTURE} | wrong)
    with pytest.raises(RequestError) as refused:
        mode_input(GenerateRequest(prompt="x", controlnet=asked), CONTROLLED)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_a_control_has_no_second_pass() -> None:
    asked = ControlRequest("edges", PICTURE)
    with pytest.raises(RequestError) as refused:
        mode_input(GenerateRequest(prompt="x", controlnet=asked, enable_hr=True), CONTROLLED)
    assert refused.value.field == "enable_hr"


def a1111(**unit: Any) -> ImageInput:
    scripts = {"controlnet": {"args": [{"model": "edges [abc]", "image": PICTURE} | unit]}}
    return drawing_input(Txt2ImgRequest(prompt="x", alwayson_scripts=scripts), CONTROLLED, {})


def test_a1111s_extension_is_understood() -> None:
    assert a1111(module="none", weight=0.7).control == Control("edges", b"hello", 0.7)
    assert a1111(image=None, input_image=PICTURE).control is not None
    assert a1111(image={"image": PICTURE, "mask": ""}).control is not None
    assert a1111(enabled=False).control is None
    for wrong, said in (
        ({"module": "canny"}, "no module"),
        ({"model": None}, "controlnet.model"),
        ({"weight": "x"}, ""),
    ):
        with pytest.raises(RequestError) as refused:
            a1111(**wrong)
        assert refused.value.status == 400 and said in f"{refused.value.field} {refused.value.message}"
    unit = {"model": "edges", "image": PICTURE}
    for scripts in ({"controlnet": {"args": [unit, unit]}}, {"reactor": {"args": []}}):
        with pytest.raises(RequestError) as refused:
            drawing_input(Txt2ImgRequest(prompt="x", alwayson_scripts=scripts), CONTROLLED, {})
        assert refused.value.code == "unsupported_value"


def test_a_schema_says_whether_it_is_of_videos() -> None:
    def schema(*names: str) -> Schema:
        method = Method({name: Parameter(name, required=False) for name in names})
        return Schema("m", "X", "other", (), Inputs((), ()), {"__call__": method}, {})

    assert makes_videos(schema("prompt", "num_frames")) and not makes_videos(schema("prompt", "width"))
