"""Writing pictures: formats, quality, and how they were made, readable by image tools."""

import pytest
from PIL import Image

from stoker.services.worker.engines.images.writing import EXIF_IFD, USER_COMMENT, infotext, sampler_of, written
from tests.unit.worker.images.made import cornered, opened

FACTS = {
    "Steps": 4,
    "Sampler": "Euler a",
    "CFG scale": 7.5,
    "Seed": 3,
    "Size": "64x64",
    "Model": "m",
    "Gone": None,
}


def comment(content: bytes) -> str:
    """The UserComment as piexif reads it, which A1111 uses: eight bytes name the encoding."""
    raw = opened(content).getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
    assert raw[:8] == b"UNICODE\0"
    return str(raw[8:].decode("utf-16-be"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_is_written_in_the_format_that_is_asked_for(kind: str) -> None:
    image = opened(written(cornered(64, 64), kind, 90, "a cat\nSteps: 4"))  # type: ignore[arg-type]
    assert (image.format, image.size) == (kind.upper(), (64, 64))


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_a_lower_quality_makes_a_smaller_file(kind: str) -> None:
    image = Image.effect_noise((64, 64), 90)
    sizes = [len(written(image, kind, quality)) for quality in (0, 20, 90, 100)]  # type: ignore[arg-type]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 2


def test_transparency_is_white_in_a_jpeg_and_kept_elsewhere() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert opened(written(clear, "jpeg")).getpixel((4, 4)) == (255, 255, 255)
    assert opened(written(clear, "png")).getpixel((4, 4)) == (0, 0, 0, 0)
    assert opened(written(clear, "webp")).convert("RGBA").getpixel((4, 4))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    "text", ["a cat\nSteps: 4", "eine Katze, ein Käse\nSteps: 4", "猫 🐈\nSteps: 4", "x" * 20_000]
)
def test_how_it_was_made_is_read_back_from_every_format(text: str) -> None:
    assert opened(written(cornered(), "png", text=text)).info["parameters"] == text
    assert comment(written(cornered(), "jpeg", text=text)) == text
    assert comment(written(cornered(), "webp", text=text)) == text


def test_of_a_text_that_is_too_long_for_exif_the_facts_stay() -> None:
    text = infotext("x" * 1_000_000, "y" * 40_000, FACTS)
    assert comment(written(cornered(), "jpeg", text=text)).startswith("Steps: 4, Sampler")
    assert opened(written(cornered(), "png", text=text)).info["parameters"] == text


def test_a_picture_without_a_text_says_nothing() -> None:
    for kind in ("png", "jpeg", "webp"):
        image = opened(written(cornered(), kind))  # type: ignore[arg-type]
        assert "parameters" not in image.info and len(image.getexif()) == 0


def test_the_text_is_what_a1111_writes() -> None:
    line = "Steps: 4, Sampler: Euler a, CFG scale: 7.5, Seed: 3, Size: 64x64, Model: m"
    assert infotext("a cat", "a dog", FACTS) == f"a cat\nNegative prompt: a dog\n{line}"
    assert infotext("a cat", None, FACTS) == f"a cat\n{line}"
    assert infotext("", "a dog", FACTS) == line
    assert infotext("", None, {"Model": 'a, "b"'}) == 'Model: "a, \\"b\\""'


def test_a_scheduler_goes_by_its_name_in_image_tools() -> None:
    import diffusers

    class Pipeline:
        scheduler: object = None

    names = {}
    pipeline = Pipeline()
    assert sampler_of(pipeline) is None
    for kind in ("EulerDiscreteScheduler", "PNDMScheduler", "DDPMScheduler"):
        pipeline.scheduler = getattr(diffusers, kind)()
        names[kind] = sampler_of(pipeline)
    assert names == {"EulerDiscreteScheduler": "Euler", "PNDMScheduler": "PLMS", "DDPMScheduler": "DDPM"}
