"""How a picture was made, read back from what the engines write and from what others do."""

import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stoker.cli.made_with import MAX_TEXT_BYTES, NotTold, parsed, request_of
from stoker.services.worker.engines.images.writing import infotext, written
from tests.unit.worker.images.made import cornered, file_of, with_chunk

FACTS = {"Steps": 4, "Sampler": "DPM++ 2M", "CFG scale": 7.5, "Seed": 3, "Size": "64x96", "Model": 'a, "b"'}
NUMBERS = {"num_inference_steps": 4, "guidance_scale": 7.5, "seed": 3, "size": "64x96"}
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(str.strip)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("prompt", ["a cat", "eine Käsekatze, 猫 🐈", "two\nlines: Steps: 3", "x" * 5000])
@pytest.mark.parametrize("negative", [None, "a dog,\nblurred"])
def test_what_is_written_is_read_back(kind: Any, prompt: str, negative: str | None) -> None:
    content = written(cornered(), kind, 90, infotext(prompt, negative, FACTS))
    told = {"negative_prompt": negative} if negative else {}
    assert request_of(content) == {"prompt": prompt} | told | NUMBERS


@given(LINES, st.none() | LINES, st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_any_prompt_is_read_back(prompt: str, negative: str | None, steps: int, seed: int) -> None:
    text = infotext(prompt, negative, {"Steps": steps, "Seed": seed})
    told = {"negative_prompt": negative} if negative else {}
    if not prompt.startswith("Negative prompt: "):
        assert parsed(text) == {"prompt": prompt, "num_inference_steps": steps, "seed": seed} | told


def test_what_others_write_is_read_too() -> None:
    text = (
        "masterpiece, (cat:1.2) <lora:x:0.8>\nNegative prompt: worst quality\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: 3fe3afeef0, "
        'Lora hashes: "x: 12, y: 34", Version: v1.9.4'
    )
    assert parsed(text) == {
        "prompt": "masterpiece, (cat:1.2) <lora:x:0.8>", "negative_prompt": "worst quality",
        "num_inference_steps": 20, "guidance_scale": 7.0, "seed": 965400086, "size": "512x768",
    }  # fmt: skip
    assert parsed("only a prompt") == {"prompt": "only a prompt"}
    assert "size" not in parsed("x\nSteps: 4, Size: 32x32")
    assert parsed("Steps: 4, Seed: 1") == {"prompt": "", "num_inference_steps": 4, "seed": 1}
    assert parsed("x\nSteps: 4, Seed: none, Size: large") == {"prompt": "x", "num_inference_steps": 4}


def test_texts_that_are_packed_are_read() -> None:
    for method in ("add_text", "add_itxt"):
        info = PngInfo()
        getattr(info, method)("parameters", "a cat\nSteps: 4", zip=True)
        assert request_of(file_of(cornered(), pnginfo=info)) == {"prompt": "a cat", "num_inference_steps": 4}


def test_exif_of_either_order_is_read() -> None:
    content = written(cornered(), "jpeg", 90, "a cat\nSteps: 4")
    exif = Image.Exif()
    exif.endian = ">"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a dog\nSteps: 5"
    other = file_of(cornered(), "JPEG", exif=exif)
    assert [request_of(one)["prompt"] for one in (content, other)] == ["a cat", "a dog"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_says_nothing_is_an_error(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    for content in (file_of(cornered(), kind), file_of(cornered(), kind, exif=exif)):
        with pytest.raises(NotTold, match="does not say how"):
            request_of(content)


def test_a_text_that_unpacks_to_much_is_an_error() -> None:
    bomb = b"parameters\0\0" + zlib.compress(b"a" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(NotTold):
        request_of(with_chunk(file_of(cornered()), b"zTXt", bomb))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8Exif\0\0MM", b"RIFFEXIF1234II"]),
)
def test_any_file_is_read_or_says_nothing(content: bytes, begins: bytes) -> None:
    framed = begins + (struct.pack(">I4s", len(content), b"iTXt") if b"PNG" in begins else b"") + content
    try:
        assert "prompt" in request_of(framed)
    except NotTold:
        pass
