"""Document 001: modes. Each example of the document, quoted and run against tiny checkpoints."""

import functools
import io
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.conftest import System, wait_for
from tests.fixtures import checkpoints
from tests.fixtures.single_files import single_file
from tests.system.drawing import generate, jobs, size_of

DOCUMENT = """\
model_root: {root}
lora_root: {root}/loras
default_mode: sdxl-general

modes:
  sdxl-general:
    model: sdxl/sdxl-base-1.0.safetensors
    default_size: "128x128"
    default_steps: 3
    default_guidance: 7.5

  sdxl-portrait:
    model: sdxl/sdxl-base-1.0.safetensors
    loras:
      - path: portrait.safetensors
        strength: 0.8
        adapter_name: portrait
      - sd15.safetensors
    default_size: "96x128"
    default_steps: 3

  sd15-fast:
    model: sd15/dreamshaper-lcm.safetensors
    default_size: "64x64"
    default_steps: 4
    default_guidance: 1.0
    metadata:
      description: "quick"

  gone:
    model: sd15/not-there.safetensors

styles:
  - {{id: papercut, title: Papercut, lora_path: portrait.safetensors, levels: [0.3, 0.6, 1.0],
     required_cross_attention_dim: 2048}}
"""
STOKER = """\
models:
  upscaler: {engine: spandrel, url: file://./models/upscaler.pth}
handlers: [os.path:basename]
workers: [{count: 1, memory: 2GB, engines: [diffusers, spandrel]}]
"""


def make_models(root: Path) -> None:
    sdxl = checkpoints.sdxl(root / "sdxl" / "sdxl-base-1.0")
    single_file(sdxl, root / "sdxl" / "sdxl-base-1.0.safetensors")
    sd15 = checkpoints.sd15(root / "sd15" / "dreamshaper-lcm")
    single_file(sd15, root / "sd15" / "dreamshaper-lcm.safetensors")
    checkpoints.lora(root / "loras" / "portrait.safetensors", 2048)
    checkpoints.lora(root / "loras" / "sd15.safetensors", 768)
    checkpoints.upscaler(root / "upscaler.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modes")
    make_models(folder / "models")
    (folder / "modes.yaml").write_text(DOCUMENT.format(root=folder / "models"))
    (folder / "stoker.yaml").write_text(STOKER)
    return folder


@pytest.fixture(scope="module")
def modes(folder: Path) -> Iterator[System]:
    system = System(folder, folder / "modes.yaml", "--config", str(folder / "stoker.yaml"))
    try:
        system.wait_ready()
        wait_for(lambda: status(system)["vram"] and status(system)["vram"]["models"], 60, "the default mode")
        yield system
    finally:
        system.stop()


def status(system: System) -> Any:
    return system.get("/api/models/status")


def fast_size(system: System) -> str:
    size: str = system.get("/api/modes")["modes"]["sd15-fast"]["default_size"]
    return size


def loads(system: System) -> int:
    return len(re.findall(r"model\.loaded +model=(sd|gone)", system.log.read_text()))


def test_the_default_mode_is_loaded_at_the_start_and_the_status_says_so(modes: System) -> None:
    """GET /api/models/status, field for field."""
    wait_for(lambda: not status(modes)["queue_size"], what="the load that was asked for at the start to end")
    body = status(modes)
    assert body.keys() == {"current_mode", "queue_size", "vram", "configuration"}
    assert body["configuration"]["revision"] == modes.get("/v1/fleet")["configuration"]["revision"] > 0
    assert body["configuration"]["failed"] is None
    assert (body["current_mode"], body["queue_size"]) == ("sdxl-general", 0)
    vram = body["vram"]
    assert vram.keys() == {
        "device", "total_gb", "used_gb", "available_gb", "usage_percent", "models_loaded", "models",
        "allocated_gb",
    }  # fmt: skip
    assert (vram["total_gb"], vram["models_loaded"]) == (2.0, 1)
    (model,) = vram["models"]
    assert model.keys() == {"name", "model_path", "vram_gb", "loras"}
    assert model["name"] == "sdxl-general"
    assert model["model_path"].endswith("models/sdxl/sdxl-base-1.0.safetensors")
    assert vram == modes.get("/api/vram")


def test_modes_are_listed_as_the_file_says(modes: System) -> None:
    """GET /api/modes."""
    body = modes.get("/api/modes")
    assert body["default_mode"] == "sdxl-general"
    assert body["modes"]["sdxl-general"] == {
        "model": "sdxl/sdxl-base-1.0.safetensors",
        "loras": [],
        "default_size": "128x128",
        "default_steps": 3,
        "default_guidance": 7.5,
    }
    assert body["modes"]["gone"] == {
        "model": "sd15/not-there.safetensors",
        "loras": [],
        "default_size": "512x512",
        "default_steps": 4,
        "default_guidance": 1.0,
    }
    portrait = body["modes"]["sdxl-portrait"]["loras"]
    assert [(one["adapter_name"], one["strength"]) for one in portrait] == [
        ("portrait", 0.8),
        ("lora_sd15", 1.0),
    ]


def test_generate_uses_the_modes_defaults_and_says_mode_and_seed(modes: System) -> None:
    answer = generate(modes, mode="sdxl-general", seed=42)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    told = {name: answer.headers[name] for name in ("x-mode", "x-seed", "x-superres", "cache-control")}
    assert told == {"x-mode": "sdxl-general", "x-seed": "42", "x-superres": "0", "cache-control": "no-store"}
    assert answer.headers["x-job-id"]
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (128, 128)
    assert (
        "Steps: 3, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 128x128, Model: sdxl-general"
        in image.info["parameters"]
    )
    asked = generate(modes, mode="sdxl-general", size="64x96", num_inference_steps=2, guidance_scale=8.0)
    assert size_of(asked) == (64, 96)


def test_example_1_a_multi_model_workflow(modes: System) -> None:
    base_url = modes.url
    post = functools.partial(httpx.post, timeout=60)
    response = post(
        f"{base_url}/generate", json={"mode": "sdxl-general", "prompt": "a photorealistic landscape"}
    )
    assert response.headers["X-Mode"] == "sdxl-general"
    response = post(f"{base_url}/generate", json={"mode": "sd15-fast", "prompt": "anime character"})
    assert response.headers["X-Mode"] == "sd15-fast"
    found = wait_for(lambda: (s := status(modes))["current_mode"] == "sd15-fast" and s, what="the mode")
    assert found["vram"]["used_gb"] > 0
    unnamed = generate(modes)
    assert (unnamed.headers["x-mode"], size_of(unnamed)) == ("sd15-fast", (64, 64))


def test_a_switch_is_queued_then_done_and_needs_no_second_one(modes: System) -> None:
    """POST /api/modes/switch."""
    generate(modes, mode="sdxl-general")
    wait_for(lambda: status(modes)["current_mode"] == "sdxl-general")
    answer = modes.post("/api/modes/switch", {"mode": "sdxl-portrait"})
    body = answer.json()
    assert re.fullmatch(r"Mode switch queued\. Will switch after \d+ pending jobs\.", body.pop("message"))
    assert body == {"status": "queued", "from_mode": "sdxl-general", "to_mode": "sdxl-portrait"}
    wait_for(lambda: status(modes)["current_mode"] == "sdxl-portrait")
    again = modes.post("/api/modes/switch", {"mode": "sdxl-portrait"})
    assert again.json()["status"] == "already_loaded"
    assert size_of(generate(modes)) == (96, 128)
    (sdxl,) = [one for one in status(modes)["vram"]["models"] if "sdxl" in one["model_path"]]
    assert sdxl["loras"] == ["portrait", "lora_sd15"]
    assert "cross_attention_dim 768, the model has 2048" in sdxl["skipped_loras"][0]


def test_switching_between_hot_modes_loads_nothing_and_loras_change_the_picture(modes: System) -> None:
    options = {"size": "64x64", "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 7}
    pictures: dict[str, list[bytes]] = {}
    for mode in ("sdxl-general", "sdxl-portrait", "sd15-fast"):
        generate(modes, mode=mode)
    before = loads(modes)
    for _ in range(3):
        for mode in ("sdxl-general", "sdxl-portrait", "sd15-fast"):
            answer = generate(modes, mode=mode, **options)
            pixels = Image.open(io.BytesIO(answer.content)).tobytes()
            pictures.setdefault(mode, []).append(pixels)
    assert loads(modes) == before
    assert all(len(set(found)) == 1 for found in pictures.values())
    assert len({found[0] for found in pictures.values()}) == 3


def test_a_style_is_a_lora_at_a_level(modes: System) -> None:
    options = {"mode": "sdxl-general", "size": "64x64", "seed": 3}

    def pixels(level: int) -> bytes:
        answer = generate(modes, **options, style_lora={"style": "papercut", "level": level})
        return Image.open(io.BytesIO(answer.content)).tobytes()

    plain = Image.open(io.BytesIO(generate(modes, **options).content)).tobytes()
    assert pixels(0) == plain
    assert pixels(1) != plain
    assert pixels(1) != pixels(3)
    assert pixels(8) == pixels(3)  # above N clamps to the last
    unfit = {"mode": "sd15-fast", "seed": 3}
    bare = generate(modes, **unfit)
    styled = generate(modes, **unfit, style_lora={"style": "papercut", "level": 3})
    assert Image.open(io.BytesIO(styled.content)).tobytes() == Image.open(io.BytesIO(bare.content)).tobytes()


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"mode": "xyz"}, 404, "mode"),
        ({"size": "512"}, 400, "size"),
        ({"size": "100x100"}, 400, "size"),
        ({"size": "32x64"}, 400, "size"),
        ({"size": "4096x64"}, 400, "size"),
        ({"num_inference_steps": 0}, 400, "num_inference_steps"),
        ({"num_inference_steps": 51}, 400, "num_inference_steps"),
        ({"guidance_scale": 21}, 400, "guidance_scale"),
        ({"seed": -2}, 400, "seed"),
        ({"seed": 2**32}, 400, "seed"),
        ({"superres": True, "superres_magnitude": 4}, 400, "superres_magnitude"),
        ({"superres_format": "gif"}, 400, "superres_format"),
        ({"superres_quality": 0}, 400, "superres_quality"),
        ({"style_lora": {"style": "nope", "level": 1}}, 400, "style_lora.style"),
        ({"style_lora": {"style": "papercut", "level": 9}}, 400, "style_lora.level"),
        ({"stepz": 3}, 400, None),
    ],
)
def test_what_is_wrong_with_a_request_is_said_with_the_field(
    modes: System, body: dict[str, Any], code: int, field: str | None
) -> None:
    answer = generate(modes, **body)
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("field") == field
    if code == 404:
        assert "sdxl-general" in answer.json()["detail"]


def test_a_failed_load_leaves_the_mode_not_loaded_and_says_so(modes: System) -> None:
    current = status(modes)["current_mode"]
    answer = generate(modes, mode="gone")
    assert answer.status_code == 503
    assert "not-there.safetensors does not exist" in answer.json()["detail"]
    assert status(modes)["current_mode"] == current
    assert modes.post("/api/modes/switch", {"mode": "gone"}).json()["status"] == "queued"
    wait_for(lambda: "not-there" in status(modes).get("error", ""), what="the failure in the status")
    assert generate(modes).headers["x-mode"] == current
    assert modes.post("/api/modes/switch", {"mode": "xyz"}).status_code == 404


def test_super_resolution_after_drawing_and_of_an_upload(modes: System) -> None:
    answer = generate(
        modes,
        mode="sd15-fast",
        superres=True,
        superres_magnitude=2,
        superres_format="jpeg",
        superres_quality=80,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    assert size_of(answer) == (256, 256)
    told = {name: answer.headers[f"x-sr-{name}"] for name in ("model", "passes", "scale-per-pass", "format")}
    assert told == {"model": "upscaler", "passes": "2", "scale-per-pass": "2", "format": "jpeg"}
    assert answer.headers["x-superres"] == "1"
    picture = generate(modes, mode="sd15-fast").content
    upload = httpx.post(modes.url + "/superres", files={"file": picture}, data={"magnitude": "1"}, timeout=60)
    assert upload.status_code == 200, upload.text
    assert (size_of(upload), upload.headers["x-sr-magnitude"]) == ((128, 128), "1")


def test_bad_uploads_are_refused(modes: System) -> None:
    url = modes.url + "/superres"
    assert httpx.post(url, files={"file": b""}).status_code == 400
    assert httpx.post(url, json={}).status_code == 400
    assert httpx.post(url, files={"file": b"no picture"}, timeout=30).status_code == 400
    assert httpx.post(url, files={"file": b"x"}, data={"magnitude": "9"}).status_code == 400
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = httpx.post(url, files={"file": bomb.getvalue()}, timeout=30)
    assert answer.status_code == 400
    assert "megapixels" in answer.json()["detail"]
    large = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(large, "PNG")
    assert (
        httpx.post(url, files={"file": large.getvalue()}, data={"magnitude": "3"}, timeout=30).status_code
        == 400
    )


def test_edits_start_from_a_picture_and_keep_what_the_mask_covers(modes: System) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    data = {"model": "sd15-fast", "prompt": "x", "strength": "0.8", "num_inference_steps": "4", "seed": "1"}
    url = modes.url + "/v1/images/edits"
    edited = httpx.post(url, files={"image": picture.getvalue()}, data=data, timeout=60)
    assert edited.status_code == 200, edited.text
    mask = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 255)).save(mask, "PNG")
    files = {"image": picture.getvalue(), "mask": mask.getvalue()}
    masked = httpx.post(url, files=files, data=data, timeout=60)
    assert masked.status_code == 200, masked.text
    assert masked.json()["data"][0]["b64_json"] != edited.json()["data"][0]["b64_json"]
    missing = httpx.post(url, files={"other": b"x"}, data=data)
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "image")


def test_editing_the_file_changes_later_requests_and_not_those_in_flight(modes: System, folder: Path) -> None:
    file = folder / "modes.yaml"
    before, known = file.read_text(), jobs(modes)
    try:
        with ThreadPoolExecutor(20) as pool:
            steps = range(31, 51)  # each of its own: they are not drawn together
            flying = [pool.submit(generate, modes, mode="sd15-fast", num_inference_steps=n) for n in steps]
            wait_for(lambda: len(jobs(modes) - known) == len(steps), what="accepted generations")
            assert status(modes)["queue_size"] > 0
            temporary = folder / "modes.yaml.tmp"
            temporary.write_text(before.replace('default_size: "64x64"', 'default_size: "128x64"'))
            temporary.rename(file)  # as editors do
            shown = wait_for(
                lambda: modes.get("/api/modes")["modes"]["sd15-fast"]["default_size"] == "128x64",
                what="the change",
            )
            assert shown
            after = generate(modes, mode="sd15-fast")
            assert {size_of(one.result()) for one in flying} == {(64, 64)}
        assert size_of(after) == (128, 64)
    finally:
        file.write_text(before)
        wait_for(lambda: fast_size(modes) == "64x64")


def test_an_invalid_edit_changes_nothing_and_is_reported(modes: System, folder: Path) -> None:
    file = folder / "modes.yaml"
    before, shown = file.read_text(), modes.get("/api/modes")
    try:
        file.write_text(before.replace("default_mode: sdxl-general", "default_mode: nope"))
        wait_for(lambda: "configuration.invalid" in modes.log.read_text(), what="the report")
        answer = modes.post("/api/modes/reload", {})
        assert (answer.status_code, answer.json()["field"]) == (422, "default_mode")
        assert "modes.yaml:3" in answer.json()["detail"]
        assert "default_mode 'nope' not found in modes. Available modes:" in answer.json()["detail"]
        assert modes.get("/api/modes") == shown
        told = status(modes)["configuration"]
        failed = told["failed"]
        assert (failed["file"], failed["line"], failed["field"]) == (str(file), 3, "default_mode")
        assert "default_mode 'nope' not found" in failed["reason"]
        assert modes.get("/v1/fleet")["configuration"] == told
    finally:
        file.write_text(before)
    body = modes.post("/api/modes/reload", {}).json()
    after = status(modes)["configuration"]
    assert (after["failed"], after["revision"]) == (None, told["revision"]), "the same as before the edit"
    assert body == {
        "revision": after["revision"],
        "status": "reloaded",
        "modes_count": 4,
        "modes": ["sdxl-general", "sdxl-portrait", "sd15-fast", "gone"],
        "default_mode": "sdxl-general",
    }


def test_no_request_sees_a_part_of_an_edit(modes: System, folder: Path) -> None:
    """Two versions without a mode in common but the default, saved in every way, and files that are none."""
    file = folder / "modes.yaml"
    before = file.read_text()
    default = "  sdxl-general: {model: sdxl/sdxl-base-1.0.safetensors}\n"
    texts: list[str] = []
    for kind in "ab":
        entries = "".join(f"  {kind}{n}: {{model: sd15/dreamshaper-lcm.safetensors}}\n" for n in range(8))
        texts.append(f"model_root: {folder}/models\nmodes:\n{default}{entries}default_mode: sdxl-general\n")
    allowed = [frozenset({"sdxl-general", *(f"{kind}{n}" for n in range(8))}) for kind in "ab"]
    allowed.append(frozenset(modes.get("/api/modes")["modes"]))
    seen: set[frozenset[str]] = set()
    is_over = threading.Event()

    def names() -> frozenset[str]:
        return frozenset(modes.get("/api/modes")["modes"])

    def poll() -> None:
        while not is_over.is_set():
            seen.add(names())

    def write(number: int, text: str) -> None:
        if number % 3:
            temporary = folder / "modes.yaml.tmp"
            temporary.write_text(text)
            temporary.rename(file)
        else:
            file.write_text(text)

    first = status(modes)["configuration"]["revision"]
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            for number in range(8):
                for broken in ("", "null\n", "modes: {}\n", texts[0][: len(texts[0]) // 2])[: number % 4 + 1]:
                    file.write_text(broken)
                write(number, texts[number % 2])
                wait_for(lambda wanted=allowed[number % 2]: names() == wanted, what=f"edit {number}")
        finally:
            is_over.set()
            file.write_text(before)
        polling.result()
    wait_for(lambda: names() == allowed[2], what="the file as it was")
    assert seen <= set(allowed)
    wait_for(lambda: status(modes)["configuration"]["failed"] is None)
    assert status(modes)["configuration"]["revision"] == first + 9, (
        "one for each change, and the file as it was"
    )


def test_sighup_reloads(modes: System) -> None:
    count = modes.log.read_text().count("configuration.reloaded")
    os.kill(modes.pid("gateway"), signal.SIGHUP)
    wait_for(lambda: modes.log.read_text().count("configuration.reloaded") > count, what="the reload")
    assert fast_size(modes) == "64x64"


def test_example_2_custom_jobs_are_called_by_name_and_only_allowed_ones(modes: System) -> None:
    from stoker import CustomJob, get_worker_pool

    pool = get_worker_pool(modes.url)
    job = CustomJob(handler=os.path.basename, args=("/path/to/image.png",))
    future = pool.submit_job(job)
    assert future.result(30) == "image.png"
    refused = pool.submit_job(CustomJob(handler="shutil:rmtree", args=("/nowhere",)))
    with pytest.raises(Exception, match="allow"):
        refused.result(30)
    wrong = pool.submit_job(CustomJob(handler="os.path:basename", args=("a", "b")))
    with pytest.raises(Exception, match="too many positional"):
        wrong.result(30)
