"""A1111's API on a real system: what its clients ask first, draw, draw from a picture, watch and interrupt."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from PIL import Image, ImageChops
from safetensors.torch import save_file

from tests.conftest import System, wait_for
from tests.fixtures import checkpoints
from tests.fixtures.remote_files import FETCHED, serving_pictures

QUICK = {"prompt": "a cat", "seed": 5, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("a1111")
    checkpoints.sd15(folder / "tiny")
    checkpoints.sd15(folder / "other", seed=9)
    save_file({"x": torch.ones(2, 768)}, folder / "zebra.safetensors")
    checkpoints.lora(folder / "bright.safetensors", 768)
    models: dict[str, Any] = {
        name: {"engine": "diffusers", "url": f"file://{folder / name}"} for name in ("tiny", "other")
    }
    models["echo"] = {"engine": "synthetic", "features": ["TextGeneration"]}
    worker = {"count": 1, "memory": "2GB", "engines": ["diffusers", "synthetic"]}
    styles = [{"id": "bright", "lora_path": str(folder / "bright.safetensors"), "levels": [1.0]}]
    modes = {
        "model_root": str(folder),
        "default_mode": "plain",
        "modes": {"plain": {"model": "tiny", "embeddings": ["zebra.safetensors"]}},
        "styles": styles,
    }
    (folder / "modes.yaml").write_text(yaml.safe_dump(modes))
    found = System(
        folder / "system",
        yaml.safe_dump({"models": models, "workers": [worker]}),
        "--config",
        str(folder / "modes.yaml"),
        environment=FETCHED,
    )
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def post(system: System, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{system.url}/sdapi/v1/{path}", json=body, timeout=60)


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_what_clients_ask_first_is_answered(system: System) -> None:
    titles = {one["title"] for one in system.get("/sdapi/v1/sd-models")}
    assert {"tiny", "other", "plain"} <= titles and "echo" not in titles
    assert "DPM++ 2M Karras" in {one["name"] for one in system.get("/sdapi/v1/samplers")}
    assert {one["label"] for one in system.get("/sdapi/v1/schedulers")} == {
        "Automatic",
        "Karras",
        "Exponential",
    }
    assert "bright" in {one["name"] for one in system.get("/sdapi/v1/loras")}
    assert system.get("/sdapi/v1/progress")["progress"] == 0.0
    for name in ("sd-vae", "embeddings", "cmd-flags", "scripts"):
        system.get(f"/sdapi/v1/{name}")


def test_pictures_are_drawn_with_their_seeds_and_are_the_same_again(system: System) -> None:
    answer = post(
        system, "txt2img", **QUICK, batch_size=2, override_settings={"sd_model_checkpoint": "tiny"}
    ).json()
    info = json.loads(answer["info"])
    assert len(answer["images"]) == 2 and info["all_seeds"] == [5, 6]
    assert picture(answer["images"][0]).size == (64, 64)
    again = post(
        system, "txt2img", **QUICK | {"seed": 6}, override_settings={"sd_model_checkpoint": "tiny"}
    ).json()
    one, other = picture(again["images"][0]), picture(answer["images"][1])
    assert max(high for _, high in ImageChops.difference(one, other).getextrema()) <= 2  # drawn as one of two
    assert "Seed: 6" in info["infotexts"][1] and info["sd_model_name"] == "tiny"
    none = post(
        system, "txt2img", **QUICK, send_images=False, override_settings={"sd_model_checkpoint": "tiny"}
    )
    assert none.json()["images"] == []


def test_samplers_and_loras_change_the_picture_of_one_request(system: System) -> None:
    settings = {"sd_model_checkpoint": "tiny"}
    drawn = [
        post(system, "txt2img", **QUICK | more, override_settings=settings).json()["images"][0]
        for more in ({}, {"sampler_name": "Euler a"}, {"prompt": "a cat <lora:bright:1>"}, {})
    ]
    assert len(set(drawn)) == 3 and drawn[0] == drawn[3]
    wrong = post(system, "txt2img", **QUICK | {"sampler_name": "Magic"}, override_settings=settings)
    assert wrong.status_code == 400 and "DPM++ 2M" in wrong.json()["detail"]


def test_textual_inversions_are_words_and_are_listed(system: System) -> None:
    settings = {"sd_model_checkpoint": "plain"}
    drawn = [
        post(system, "txt2img", **QUICK | {"prompt": prompt}, override_settings=settings).json()["images"][0]
        for prompt in ("a zebra", "a zebr a")
    ]
    assert drawn[0] != drawn[1]
    listed = wait_for(lambda: system.get("/sdapi/v1/embeddings")["loaded"], 30, "a heartbeat")
    assert listed == {"zebra": {"shape": 768, "vectors": 2}}


def test_hires_fix_tiling_and_variations_are_of_one_request(system: System) -> None:
    settings = {"sd_model_checkpoint": "tiny"}
    asked = [
        {},
        {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6},
        {"tiling": True},
        {"subseed": 9, "subseed_strength": 0.4, "batch_size": 2},
        {"subseed_strength": 0.4},
        {},
    ]
    answers = [post(system, "txt2img", **QUICK | more, override_settings=settings).json() for more in asked]
    images = [one["images"][0] for one in answers]
    assert len(set(images)) == 5 and images[0] == images[5]
    assert picture(images[1]).size == (96, 96)
    infos = [json.loads(one["info"]) for one in answers]
    assert (infos[0]["subseed"], infos[1]["denoising_strength"]) == (-1, 0.6)
    assert (infos[3]["all_seeds"], infos[3]["all_subseeds"]) == ([5, 5], [9, 10])
    again = QUICK | {"subseed": infos[4]["subseed"], "subseed_strength": 0.4}  # chosen by chance, and told
    assert post(system, "txt2img", **again, override_settings=settings).json()["images"][0] == images[4]


def test_brackets_are_weights_and_what_is_not_drawn_as_asked_is_told(system: System) -> None:
    settings = {"sd_model_checkpoint": "tiny", "CLIP_stop_at_last_layers": 1}
    drawn = [
        post(system, "txt2img", **QUICK | {"prompt": prompt}, override_settings=settings).json()["images"][0]
        for prompt in ("a cat", "a (cat:1.5)", r"a \(cat\)", "a cat")
    ]
    assert len(set(drawn)) == 3 and drawn[0] == drawn[3]
    plain = {"model": "tiny", "prompt": "a (cat)", "size": "64x64", "seed": 5, "num_inference_steps": 2}
    image = httpx.post(f"{system.url}/v1/images/generations", json=plain, timeout=60).json()["data"][0][
        "b64_json"
    ]
    assert picture(image).tobytes() == picture(drawn[2]).tobytes()  # there brackets are text
    edited = post(system, "txt2img", **QUICK | {"prompt": "[a:b:0.5]"}, override_settings=settings | {"eta": 1})
    assert "drawn as text" in edited.headers["stoker-remark"] == json.loads(edited.json()["info"])["comments"]
    assert edited.headers["stoker-ignored"] == "override_settings.eta"
    wrong = post(system, "txt2img", **QUICK, override_settings=settings | {"CLIP_stop_at_last_layers": 9})
    assert wrong.status_code == 400 and "which can spare 0" in wrong.json()["detail"]
    assert wrong.json()["field"] == "clip_skip"


def test_a_checkpoint_is_chosen_for_what_comes_after(system: System) -> None:
    settings = {"sd_model_checkpoint": "other"}
    named = post(system, "txt2img", **QUICK, override_settings=settings).json()["images"][0]
    assert post(system, "options", **settings).json() == settings
    assert system.get("/sdapi/v1/options") == settings
    assert post(system, "txt2img", **QUICK).json()["images"][0] == named
    for wrong in ("echo", "none"):
        assert post(system, "options", sd_model_checkpoint=wrong).status_code in (400, 404)
    assert system.get("/sdapi/v1/options") == settings


def test_a_picture_is_drawn_from_another_and_a_mask_keeps_the_rest(system: System) -> None:
    content = io.BytesIO()
    Image.new("RGB", (64, 128), (200, 30, 30)).save(content, "PNG")
    mask = io.BytesIO()
    half = Image.new("L", (64, 128), 0)
    half.paste(255, (0, 0, 64, 40))
    half.save(mask, "PNG")
    asked = {
        "prompt": "x", "steps": 2, "seed": 1, "init_images": [base64.b64encode(content.getvalue()).decode()],
        "override_settings": {"sd_model_checkpoint": "tiny"},
    }  # fmt: skip
    drawn = post(system, "img2img", **asked, denoising_strength=0.9).json()
    assert picture(drawn["images"][0]).size == (64, 128) and "init_images" not in drawn["parameters"]
    kept = post(system, "img2img", **asked, mask=base64.b64encode(mask.getvalue()).decode()).json()
    assert picture(kept["images"][0]).convert("RGB").getpixel((32, 120)) == (200, 30, 30)
    with serving_pictures({"picture.png": content.getvalue(), "mask.png": mask.getvalue()}) as url:
        named = {"init_images": [f"{url}/picture.png"], "mask": f"{url}/mask.png"}
        again = post(system, "img2img", **asked | named).json()
    assert picture(again["images"][0]).tobytes() == picture(kept["images"][0]).tobytes()
    broken = post(system, "img2img", **asked | {"init_images": ["!!"]})
    assert broken.status_code == 400 and broken.json()["field"] == "init_images"


def told(system: System, beyond: float) -> dict[str, Any] | None:
    """The progress once it is beyond that share."""
    progress: dict[str, Any] = system.get("/sdapi/v1/progress")
    return progress if progress["progress"] > beyond else None


def test_a_drawing_is_watched_and_interrupted(system: System) -> None:
    answers: list[httpx.Response] = []
    asked = {"steps": 150, "width": 128, "height": 128, "override_settings": {"sd_model_checkpoint": "tiny"}}
    drawing = threading.Thread(target=lambda: answers.append(post(system, "txt2img", prompt="x", **asked)))
    drawing.start()
    try:
        begun = wait_for(lambda: told(system, 0.0), 60, "some progress")
        further = wait_for(lambda: told(system, begun["progress"]), 60, "more progress")
        assert further["eta_relative"] > 0
        state = further["state"]
        assert state["sampling_steps"] == 150 and state["job_count"] == 1
    finally:
        assert post(system, "interrupt").status_code == 200
        drawing.join()
    assert answers[0].status_code == 200, "as A1111 answers: with what there is"
    told_of = json.loads(answers[0].json()["info"])
    assert told_of["interrupted"] and 0 < told_of["steps"] < 150
    assert system.get("/sdapi/v1/progress")["state"]["job_count"] == 0
