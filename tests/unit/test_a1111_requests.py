"""A1111's requests as jobs: samplers, LoRAs in the prompt, what is refused; and which drawings are under way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.a1111 import Img2ImgRequest, Txt2ImgRequest
from stoker.schemas.catalog import Adapter, Model, Spec, Style
from stoker.schemas.job_events import Cancelled, Preview, Progress
from stoker.schemas.samplers import SAMPLERS, known_samplers, sampler_named
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.a1111_requests import (
    UNSUPPORTED,
    check_supported,
    drawing_input,
    ignored_settings,
    loras_of,
    sampler_of,
    with_loras,
)
from stoker.services.gateway.jobs.active import ActiveJobs, Drawing
from stoker.services.gateway.jobs.requests import ImageJobInput, image_input
from stoker.services.gateway.watching.watcher import Watcher

LORA = Adapter("portrait", "file:///loras/xl_portrait.safetensors", 0.8)
MODEL = Model(
    "sd",
    ("ImageGeneration",),
    (Spec(name="s", engine="diffusers", url="x", loras=(LORA,)),),
    defaults={"num_inference_steps": 7, "width": 64, "height": 64},
    styles=(Style(id="papercut", lora="file:///loras/cut.safetensors", levels=(0.5,)),),
)
KNOWN = loras_of({"sd": MODEL})


def refused(make: Any) -> RequestError:
    with pytest.raises(RequestError) as found:
        make()
    assert found.value.status == 400
    return found.value


# Samplers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "schedule", "name"),
    [
        ("DPM++ 2M", "Karras", "DPM++ 2M Karras"),
        ("DPM++ 2M Karras", "Karras", "DPM++ 2M Karras"),
        ("dpm++ 2m", "karras", "DPM++ 2M Karras"),
        ("Euler a", "Automatic", "Euler a"),
        ("Euler a", None, "Euler a"),
        ("euler_a", None, "Euler a"),
        ("LMSDiscreteScheduler", None, "LMSDiscreteScheduler"),
        (None, "Karras", ""),
    ],
)
def test_sampler_and_schedule_are_one_name(sampler: str | None, schedule: str | None, name: str) -> None:
    assert sampler_of(Txt2ImgRequest(sampler_name=sampler, scheduler=schedule)) == name
    if sampler is not None:
        assert sampler_of(Txt2ImgRequest(sampler_index=sampler, scheduler=schedule)) == name


def test_a_schedule_without_a_sampler_is_told_to_be_left_out() -> None:
    assert ignored_settings(Txt2ImgRequest(scheduler="Karras")) == ["scheduler"]
    assert ignored_settings(Txt2ImgRequest(scheduler="Automatic")) == []
    assert ignored_settings(Txt2ImgRequest(scheduler="Karras", sampler_name="Euler")) == []


def test_nothing_that_clients_send_for_no_refiner_is_refused() -> None:
    for name in (None, "", "None"):
        check_supported(Txt2ImgRequest(refiner_checkpoint=name))


def test_a_sampler_that_is_none_is_refused_with_those_that_there_are() -> None:
    error = refused(lambda: sampler_of(Txt2ImgRequest(sampler_name="Magic")))
    assert error.field == "sampler_name" and known_samplers() in error.message
    own = refused(lambda: image_input(ImageJobInput(prompt="x", sampler="Magic"), MODEL))
    assert own.field == "sampler"
    assert image_input(ImageJobInput(prompt="x", sampler="ddim"), MODEL).sampler == "DDIM"


@given(st.sampled_from(sorted(SAMPLERS)), st.sampled_from([str.lower, str.upper, str.title, str.swapcase]))
def test_names_are_known_however_they_are_written(name: str, write: Any) -> None:
    assert sampler_named(write(name)) == name
    assert sampler_named(name.replace(" ", "_")) == name


@pytest.mark.parametrize("name", ["", "Scheduler.x", "x y Scheduler", "DDPMPipeline", "os.system"])
def test_what_is_no_name_of_a_class_is_none(name: str) -> None:
    assert sampler_named(name) is None


# LoRAs --------------------------------------------------------------------------------------------


def test_loras_are_known_by_their_name_their_file_and_their_style() -> None:
    assert set(KNOWN) == {"portrait", "xl_portrait", "papercut"}


def test_loras_in_a_prompt_are_taken_out_and_laid() -> None:
    prompt, loras = with_loras("a cat <lora:portrait:0.5>, red <lora:papercut>", KNOWN)
    assert prompt == "a cat , red"
    assert [(one.name, one.strength) for one in loras] == [("portrait", 0.5), ("papercut", 1.0)]
    assert with_loras("no lora: here <b>", KNOWN) == ("no lora: here <b>", ())


@pytest.mark.parametrize("prompt", ["<lora:nope:1>", "<lora:portrait:much>", "<lora:portrait:99>"])
def test_a_lora_that_is_none_is_refused(prompt: str) -> None:
    assert refused(lambda: with_loras(prompt, KNOWN)).field == "prompt"


@given(st.text(max_size=60))
def test_any_prompt_is_read_or_refused(prompt: str) -> None:
    try:
        plain, _ = with_loras(prompt, KNOWN)
    except RequestError:
        return
    assert "<lora:" not in plain or plain == prompt.strip()


# Whole requests -----------------------------------------------------------------------------------


def test_what_is_left_out_is_the_models() -> None:
    drawn = drawing_input(Txt2ImgRequest(prompt="x", batch_size=2, n_iter=2), MODEL, KNOWN)
    assert (drawn.n, drawn.num_inference_steps, drawn.width, drawn.sampler) == (4, 7, 64, "")
    asked = Txt2ImgRequest(prompt="x", steps=3, cfg_scale=2.0, width=128, height=64, sampler_name="DDIM")
    drawn = drawing_input(asked, MODEL, KNOWN)
    assert (drawn.num_inference_steps, drawn.guidance_scale, drawn.width, drawn.sampler) == (
        3,
        2.0,
        128,
        "DDIM",
    )


def test_a_picture_to_start_from_keeps_its_size() -> None:
    asked = Img2ImgRequest(prompt="x", init_images=("AA",), denoising_strength=0.4)
    drawn = drawing_input(asked, MODEL, KNOWN)
    assert (drawn.width, drawn.height, drawn.parameters) == (None, None, {"strength": 0.4})
    sized = drawing_input(Img2ImgRequest(prompt="x", init_images=("AA",), width=64, height=128), MODEL, KNOWN)
    assert (sized.width, sized.height) == (64, 128)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Img2ImgRequest(prompt="x"), "init_images"),
        (Img2ImgRequest(prompt="x", init_images=("AA", "BB")), "init_images"),
        (Img2ImgRequest(prompt="x", init_images=("AA",), denoising_strength=1.5), "denoising_strength"),
        (Img2ImgRequest(prompt="x", init_images=("AA",), inpainting_mask_invert=2), "inpainting_mask_invert"),
        (Img2ImgRequest(prompt="x", init_images=("AA",), inpainting_fill=2), "inpainting_fill"),
        (Txt2ImgRequest(prompt="x", batch_size=0), "batch_size"),
        (Txt2ImgRequest(prompt="x", batch_size=10, n_iter=10), "batch_size times n_iter"),
        (Txt2ImgRequest(prompt="x", width=65), "width"),
        (Txt2ImgRequest(prompt="x", steps=0), "steps"),
        (Txt2ImgRequest(prompt="x", cfg_scale=1e9), "cfg_scale"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(asked: Txt2ImgRequest, field: str) -> None:
    assert refused(lambda: drawing_input(asked, MODEL, KNOWN)).field == field


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_make_another_picture_is_refused(name: str) -> None:
    value: Any = {
        "script_name": "x",
        "refiner_checkpoint": "x",
        "alwayson_scripts": {"controlnet": {}},
        "styles": ("x",),
    }.get(name, True)
    error = refused(lambda: drawing_input(Txt2ImgRequest(prompt="x", **{name: value}), MODEL, KNOWN))
    assert error.field == name and UNSUPPORTED[name] in error.message


@pytest.mark.parametrize(
    ("script", "field"),
    [
        ({"args": {"0": {"model": "edges"}}}, "alwayson_scripts.controlnet.args"),
        ({"args": "edges"}, "alwayson_scripts.controlnet.args"),
        ({"args": [3]}, "alwayson_scripts.controlnet.args"),
        ({"args": None}, "alwayson_scripts.controlnet.args"),
        ("edges", "alwayson_scripts.controlnet.args"),
        ({"args": [{"enabled": "perhaps", "model": "edges"}]}, "alwayson_scripts.controlnet.enabled"),
    ],
)
def test_a_controlnet_that_cannot_be_read_is_refused_and_never_left_out(script: Any, field: str) -> None:
    asked = Txt2ImgRequest(prompt="x", alwayson_scripts={"controlnet": script})
    assert refused(lambda: drawing_input(asked, MODEL, KNOWN)).field == field


@pytest.mark.parametrize(
    "script",
    [
        None,
        {},
        {"args": []},
        {"args": [None, {"enabled": False, "model": "edges"}]},
        {"args": [{"enabled": 0, "model": "edges"}, {"enabled": "false", "model": "edges"}]},
    ],
)
def test_a_controlnet_that_is_switched_off_is_none(script: Any) -> None:
    asked = Txt2ImgRequest(prompt="x", alwayson_scripts={"controlnet": script})
    assert drawing_input(asked, MODEL, KNOWN).control is None


def test_drawings_are_known_while_they_are_under_way() -> None:
    attached: list[Watcher] = []

    @contextmanager
    def given(watcher: Watcher) -> Iterator[None]:
        attached.append(watcher)
        yield
        attached.remove(watcher)

    active = ActiveJobs(given)
    with active.under_way("a", "1"), active.under_way("a", "2"), active.under_way("b", "3"):
        assert [one.job for one in active.of("a")] == ["1", "2"] == [one.job for one in attached[:2]]
        assert [one.job for one in active.of("b")] == ["3"] and active.of("c") == ()
    assert active.of("a") == () and active._drawings == {} and attached == []


def test_a_drawing_keeps_the_last_of_what_it_is_told_and_nothing_else() -> None:
    drawing = Drawing("1")
    assert (drawing.share, drawing.remaining_s, drawing.preview) == (0.0, 0.0, b"")
    told: dict[str, Any] = {"term": 1, "attempt": 1}
    for step in range(1, 4):
        time.sleep(0.01)
        drawing.put(Progress(**told, seq=step, step=step, steps=4), b"", 100)
        preview = Preview(**told, seq=step, index=step, step=step, width=8, height=8, image_bytes=1)
        drawing.put(preview, bytes([step]), 100)
    assert drawing.share == 0.75 and drawing.preview == b"\x03"
    assert 0.01 <= drawing.remaining_s < 10  # two steps took 0.02 s or more; one is left
    assert drawing.waiting_bytes == 0 and not drawing.has_ended
    drawing.put(Progress(**told | {"attempt": 2}, seq=1, step=1, steps=4), b"", 100)
    assert drawing.share == 0.25 and drawing.remaining_s == 0.0  # run again: the pace is unknown
    drawing.put(Cancelled(job="1", model="sd", created_at=0.0, finished_at=0.0), b"", 100)
    assert drawing.has_ended
