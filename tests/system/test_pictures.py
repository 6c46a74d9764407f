"""Pictures over HTTP, in and out: formats, edits, errors with their fields, prompts that are cut."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openai import OpenAI
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import System, wait_for
from tests.fixtures import checkpoints, families
from tests.fixtures.remote_files import FETCHED, serving_pictures
from tests.system.drawing import jobs
from tests.unit.worker.images.made import cornered, corners, file_of, opened, oriented, text_bomb

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
QUICK = {"model": "tiny", "prompt": "a cat", "num_inference_steps": "2", "seed": "3"}
LONG = "abcdefghi " * 30


def nan_model(folder: Path) -> None:
    weights = checkpoints.sd15(folder) / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["decoder.conv_out.weight"][:] = float("nan")
    save_file(tensors, weights)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("pictures")
    checkpoints.sd15(folder / "tiny")
    checkpoints.kandinsky3(folder / "cutting")
    nan_model(folder / "nan")
    checkpoints.upscaler(folder / "upscaler.pth")
    video = families.made("Wan", folder / "video")
    defaults = {"width": 64, "height": 64, "num_inference_steps": 2}
    models: dict[str, Any] = {
        name: {"engine": "diffusers", "url": f"file://{folder / name}", "defaults": defaults}
        for name in ("tiny", "cutting", "nan")
    }
    models["untested"] = models["nan"] | {"options": {"self_test": False}}
    models["video"] = {
        "engine": "diffusers", "url": f"file://{video}", "defaults": defaults | {"num_frames": 5}
    }  # fmt: skip
    models["upscaler"] = {"engine": "spandrel", "url": f"file://{folder / 'upscaler.pth'}"}
    worker = {"count": 1, "memory": "2GB", "engines": ["diffusers", "spandrel"]}
    found = System(
        folder / "system", yaml.safe_dump({"models": models, "workers": [worker]}), environment=FETCHED
    )
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def edit(system: System, files: Any, **fields: str) -> httpx.Response:
    return httpx.post(system.url + "/v1/images/edits", files=files, data=QUICK | fields, timeout=60)


def picture_of(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return opened(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def superres(system: System, content: bytes, **fields: str) -> httpx.Response:
    data = {"magnitude": "1", **fields}
    return httpx.post(system.url + "/superres", files={"file": content}, data=data, timeout=60)


def clear_left(size: tuple[int, int] = (128, 64)) -> Image.Image:
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    return mask


def test_an_edit_keeps_its_size_and_what_its_mask_keeps(system: System) -> None:
    picture = Image.effect_noise((126, 70), 80).convert("RGB")
    files = {"image": file_of(picture), "mask": file_of(clear_left(picture.size))}
    drawn = picture_of(edit(system, files))
    assert drawn.size == picture.size
    assert drawn.crop((70, 0, 126, 70)).tobytes() == picture.crop((70, 0, 126, 70)).tobytes()
    assert drawn.crop((0, 0, 60, 70)).tobytes() != picture.crop((0, 0, 60, 70)).tobytes()
    asked = picture_of(edit(system, files, size="64x64"))
    assert asked.size == (64, 64)


def test_pictures_may_be_named_by_their_urls(system: System) -> None:
    picture = file_of(Image.effect_noise((64, 64), 90).convert("RGB"))
    mask = file_of(clear_left((64, 64)))
    sent = picture_of(edit(system, {"image": picture, "mask": mask}))
    with serving_pictures({"picture.png": picture, "mask.png": mask}) as url:
        named = {"image": f"{url}/picture.png", "mask": f"{url}/mask.png"}
        drawn = httpx.post(system.url + "/v1/images/edits", files={"x": b""}, data=QUICK | named, timeout=60)
        assert picture_of(drawn).tobytes() == sent.tobytes()
        refused = httpx.post(
            system.url + "/v1/images/edits", files={"x": b""}, data=QUICK | named | {"mask": f"{url}/none.png"}
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "mask")


def test_the_transparent_part_of_a_picture_is_what_an_edit_draws(system: System) -> None:
    picture = cornered(128, 64)
    picture.putalpha(clear_left().getchannel("A"))
    drawn = picture_of(edit(system, {"image": file_of(picture)}))
    assert corners(drawn)[1::2] == corners(cornered(128, 64))[1::2]
    assert drawn.mode == "RGB"


def test_pictures_are_upright_and_of_eight_bits_before_anything_else(system: System) -> None:
    stored = oriented(6, "JPEG", cornered(128, 64))
    assert picture_of(edit(system, {"image": stored})).size == (64, 128)
    deep, plain = (file_of(Image.new(mode, (64, 64), level)) for mode, level in (("I;16", 20000), ("L", 78)))
    assert (
        picture_of(edit(system, {"image": deep})).tobytes()
        == picture_of(edit(system, {"image": plain})).tobytes()
    )
    assert superres(system, deep).content == superres(system, plain).content
    assert opened(superres(system, stored).content).size == (128, 256)


def test_a_low_strength_draws(system: System) -> None:
    drawn = edit(system, {"image": file_of(cornered(64, 64))}, strength="0.1", num_inference_steps="4")
    assert picture_of(drawn).size == (64, 64)


def test_several_pictures_of_one_name_are_refused(system: System) -> None:
    pictures = [
        ("image[]", ("a.png", file_of(cornered(64, 64)))),
        ("image[]", ("b.png", file_of(cornered(96, 64)))),
    ]
    answer = edit(system, pictures)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert "takes one picture" in answer.json()["error"]["message"]


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("content", [EPS, text_bomb(), b"x" * 99], ids=["eps", "bomb", "none"])
def test_what_is_no_picture_is_400_with_its_field(system: System, field: str, content: bytes) -> None:
    answer = edit(system, {"image": file_of(cornered(64, 64)), field: content})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text
    assert " at 0x" not in answer.text


@pytest.mark.parametrize("content", [EPS, text_bomb(), b"x" * 99], ids=["eps", "bomb", "none"])
def test_what_cannot_be_enlarged_is_400_with_its_field(system: System, content: bytes) -> None:
    answer = superres(system, content)
    assert (answer.status_code, answer.json()["field"]) == (400, "file"), answer.text


def test_transparency_is_enlarged_too_and_webp_is_a_format(system: System) -> None:
    picture = cornered()
    picture.putalpha(128)
    for kind in ("png", "webp"):
        answer = superres(system, file_of(picture), out_format=kind)
        assert answer.headers["content-type"] == f"image/{kind}"
        assert opened(answer.content).convert("RGBA").getpixel((9, 9))[3] == 128  # type: ignore[index]
    wrong = superres(system, file_of(picture), out_format="gif")
    assert (wrong.status_code, wrong.json()["field"]) == (400, "out_format")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_each_way_to_draw_gives_the_format_that_is_asked_for(system: System, kind: str) -> None:
    ask: dict[str, Any] = {
        "model": "tiny",
        "prompt": "a cat",
        "seed": 1,
        "output_format": kind,
        "output_compression": 50,
    }
    drawn = system.post("/v1/images/generations", ask)
    assert picture_of(drawn).format == kind.upper()
    by_url = system.post("/v1/images/generations", ask | {"response_format": "url"}).json()["data"][0]["url"]
    served = httpx.get(by_url, timeout=30)
    assert served.headers["content-type"] == f"image/{kind}"
    assert opened(served.content).format == kind.upper()
    edited = edit(system, {"image": file_of(cornered(64, 64))}, output_format=kind, output_compression="50")
    assert picture_of(edited).format == kind.upper()
    plain = system.post("/generate", {"prompt": "a cat", "mode": "tiny", "output_format": kind})
    assert plain.headers["content-type"] == f"image/{kind}"
    assert opened(plain.content).format == kind.upper()
    assert "stoker-ignored" not in drawn.headers


def test_a_job_may_ask_for_a_format(system: System) -> None:
    ask = {"model": "tiny", "input": {"prompt": "x", "output_format": "webp", "output_compression": 30}}
    done = httpx.post(system.url + "/v1/jobs", json=ask, headers={"prefer": "wait=50"}, timeout=60).json()
    (picture,) = done["result"]["images"]
    assert picture["content_type"] == "image/webp"
    wrong = system.post("/v1/jobs", ask | {"input": {"prompt": "x", "output_compression": 101}})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "output_compression")


def test_the_official_client_asks_for_jpeg_and_is_told_of_it_in_a_stream(system: System) -> None:
    client = OpenAI(base_url=system.url + "/v1", api_key="none")
    answer = client.images.generate(model="tiny", prompt="x", output_format="jpeg", output_compression=40)
    assert answer.data and opened(base64.b64decode(answer.data[0].b64_json or "")).format == "JPEG"
    body = {
        "model": "tiny",
        "prompt": "x",
        "stream": True,
        "output_format": "webp",
        "num_inference_steps": 4,
        "partial_images": 1,
    }
    with httpx.stream("POST", system.url + "/v1/images/generations", json=body, timeout=60) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    for event in events:
        shown = opened(base64.b64decode(event["b64_json"])).format
        assert (shown or "").lower() == event["output_format"]
    assert [event["output_format"] for event in events] == ["png", "webp"]


def test_a_picture_says_how_it_was_made(system: System) -> None:
    ask = {"model": "tiny", "prompt": "a cat", "negative_prompt": "a dog", "seed": 9, "guidance_scale": 2}
    text = picture_of(system.post("/v1/images/generations", ask)).info["parameters"]
    assert text.startswith(
        "a cat\nNegative prompt: a dog\nSteps: 2, Sampler: DDIM, CFG scale: 2.0, Seed: 9, Size: 64x64"
    )


def test_a_picture_of_nan_is_never_200(system: System) -> None:
    refused = system.post("/v1/images/generations", {"model": "nan", "prompt": "x"})
    assert refused.status_code == 503 and "NaN" in refused.text  # it was tried at load
    answer = system.post("/v1/images/generations", {"model": "untested", "prompt": "x"})
    assert answer.status_code == 500
    assert "NaN" in answer.text and "dtype: fp32" in answer.text
    assert answer.json()["error"]["code"] == "nan_picture"


def test_a_long_prompt_is_drawn_whole_or_it_is_said_what_was_cut(system: System) -> None:
    ask = {"model": "tiny", "prompt": LONG, "seed": 1, "guidance_scale": 5}
    whole = system.post("/v1/images/generations", ask)
    other = system.post("/v1/images/generations", ask | {"prompt": LONG + "z"})
    assert picture_of(whole).tobytes() != picture_of(other).tobytes()
    assert "stoker-cut-prompt" not in whole.headers
    cut = system.post("/v1/images/generations", ask | {"model": "cutting"})
    assert int(cut.headers["stoker-cut-prompt"]) > 0, cut.text
    by_mode = system.post("/generate", {"mode": "cutting", "prompt": LONG})
    assert by_mode.headers["stoker-cut-prompt"] == cut.headers["stoker-cut-prompt"]
    body = ask | {"model": "cutting", "stream": True}
    with httpx.stream("POST", system.url + "/v1/images/generations", json=body, timeout=60) as stream:
        (event,) = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    assert str(event["cut_prompt"]) == cut.headers["stoker-cut-prompt"]


def discovered(system: System, **body: Any) -> httpx.Response:
    def ask() -> httpx.Response | bool:
        answer = system.post("/tiny/v1/generate", {"num_inference_steps": 2, "width": 64, "height": 64} | body)
        return answer.status_code != 202 and answer

    found = wait_for(ask, 60, "an answer")
    assert isinstance(found, httpx.Response)
    return found


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "width", "guidance_scale"])
def test_a_list_where_one_value_is_taken_is_400_and_never_silence(system: System, field: str) -> None:
    for value in (["a", "b"], [], {"a": 1}):
        answer = discovered(system, **({"prompt": "x"} | {field: value}))
        assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
        assert "takes one value" in answer.json()["detail"]


def test_base64_is_taken_with_line_breaks_and_as_a_data_url(system: System) -> None:
    content = file_of(cornered(64, 64))
    plain, lines = base64.b64encode(content).decode(), base64.encodebytes(content).decode()
    shown = set()
    for text in (plain, lines, f"data:image/png;base64,{lines}"):
        body = {"prompt": "x", "seed": 1, "image": text, "strength": 0.9}
        answer = system.post("/tiny/v1/generate", body | {"num_inference_steps": 2})
        assert answer.status_code == 200, answer.text
        shown.add(answer.json()["image"])
    assert len(shown) == 1
    drawn = edit(system, {"image": (None, f"data:image/png;base64,{lines}")})
    assert picture_of(drawn).size == (64, 64)


def test_an_enlargement_that_cannot_be_is_refused_before_anything_is_drawn(system: System) -> None:
    known = jobs(system)
    body = {"mode": "tiny", "prompt": "x", "superres": True, "size": "2048x2048", "superres_magnitude": 3}
    answer = system.post("/generate", body)
    assert (answer.status_code, answer.json()["field"]) == (400, "superres_magnitude"), answer.text
    assert "megapixels" in answer.json()["detail"]
    assert jobs(system) == known


def test_a_drawn_picture_is_enlarged_in_a_format_of_its_own(system: System) -> None:
    body = {"mode": "tiny", "prompt": "x", "superres": True, "superres_magnitude": 1, "output_format": "jpeg"}
    answer = system.post("/generate", body | {"superres_format": "webp"})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (128, 128)


def test_a_video_is_drawn_streamed_and_fetched_as_a_picture_is(system: System) -> None:
    asked = {"model": "video", "prompt": "a cat", "seed": 3}
    whole = system.post("/v1/images/generations", asked)
    assert whole.status_code == 200, whole.text
    content = base64.b64decode(whole.json()["data"][0]["b64_json"])
    assert content[4:8] == b"ftyp"
    linked = system.post("/v1/images/generations", asked | {"response_format": "url", "fps": 4})
    found = httpx.get(linked.json()["data"][0]["url"])
    assert found.headers["content-type"] == "video/mp4" and found.content[4:8] == b"ftyp"
    with httpx.stream("POST", f"{system.url}/v1/images/generations", json=asked | {"stream": True}) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert events[-1]["output_format"] == "mp4" and base64.b64decode(events[-1]["b64_json"]) == content
    moving = system.post("/v1/images/generations", asked | {"output_format": "webp"})
    assert opened(base64.b64decode(moving.json()["data"][0]["b64_json"])).n_frames > 1
    for wrong, said in (
        ({"output_format": "jpeg"}, "no JPEG"),
        ({"fps": 0}, "fps"),
        ({"num_frames": 0}, "num_frames"),
    ):
        refused = system.post("/v1/images/generations", asked | wrong)
        assert refused.status_code == 400 and said in refused.text, refused.text
    still = system.post("/v1/images/generations", asked | {"model": "tiny", "output_format": "mp4"})
    assert still.status_code == 400 and "makes no videos" in still.text
