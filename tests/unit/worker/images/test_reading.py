"""Reading pictures of strangers: any bytes are a picture or one error, and what is read is what was meant."""

import gc
import os
import struct
import subprocess
import zlib

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images import reading
from stoker.services.worker.engines.images.reading import read_mask, read_picture
from tests.unit.worker.images.made import (
    CORNERS,
    chunk,
    cornered,
    corners,
    file_of,
    oriented,
    swapped_profile,
    text_bomb,
    with_chunk,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
LOSSLESS = ("PNG", "WEBP", "BMP", "TIFF", "GIF")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(%pipe%id) (w) file\nshowpage\n"


def refused(content: bytes, field: str = "image") -> EngineError:
    with pytest.raises(EngineError) as found:
        read_picture(content, field)
    assert (found.value.kind, found.value.field) == ("validation", field)
    assert str(found.value).startswith(field) and " at 0x" not in str(found.value)
    return found.value


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_each_format_is_read_as_rgb(kind: str) -> None:
    image = read_picture(file_of(cornered(64, 64), kind), "image")
    assert (image.mode, image.size) == ("RGB", (64, 64))
    for is_, was in zip(corners(image), CORNERS, strict=True):
        assert max(abs(a - b) for a, b in zip(is_, was, strict=True)) <= (0 if kind in LOSSLESS[2:] else 40)


def test_heic_is_read_where_its_extra_is_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    content = file_of(cornered(64, 64), "HEIF", quality=-1)
    assert read_picture(content, "image").size == (64, 64)
    assert "HEIC" in str(refused(b"nothing"))


def test_without_it_heic_is_refused_by_the_names_of_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_formats", lambda: (reading.FORMATS, reading.READABLE))
    assert "send PNG, JPEG, WebP" in str(refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int, kind: str) -> None:
    """Stored as the camera held it, it is read as `cornered`: the inverse of each turn undoes it."""
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = inverse.get(orientation, reading.UPRIGHT.get(orientation))
    stored = cornered() if turn is None else cornered().transpose(turn)
    read = read_picture(oriented(orientation, kind, stored), "image")
    assert read.size == (32, 16)
    assert read.tobytes() == cornered().tobytes()


def test_damaged_exif_turns_nothing() -> None:
    content = with_chunk(file_of(cornered()), b"eXIf", b"MM\0*\0\0\xff\xff")
    assert read_picture(content, "image").tobytes() == cornered().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("deep", "level"), [(0, 0), (20000, 78), (32896, 128), (65535, 255)])
def test_sixteen_bits_of_grey_are_scaled_to_eight(kind: str, deep: int, level: int) -> None:
    content = file_of(Image.new("I;16", (4, 4), deep), kind)
    assert read_picture(content, "image").getpixel((1, 1)) == (level,) * 3


def test_one_grey_of_sixteen_bits_may_be_transparent() -> None:
    image = Image.new("I;16", (2, 1), 20000)
    image.putpixel((1, 0), 300)
    read = read_picture(file_of(image, transparency=300), "image")
    assert [read.getpixel(at) for at in ((0, 0), (1, 0))] == [(78, 78, 78, 255), (1, 1, 1, 0)]


def test_a_float_picture_is_an_error_that_says_what_to_do() -> None:
    assert "8 or 16 bits, as PNG" in str(refused(file_of(Image.new("F", (4, 4), 0.5), "TIFF")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
def test_transparency_is_kept_in_every_form_that_it_has(mode: str) -> None:
    """Alpha as a channel, of a palette, and one colour that is declared transparent."""
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (2, 1), (10, 255) if mode == "LA" else (10, 10, 10, 255))
        image.putpixel((1, 0), (10, 0) if mode == "LA" else (10, 10, 10, 0))
        content = file_of(image)
    else:
        image = Image.new(mode, (2, 1), 1 if mode in ("P", "1") else 10 if mode == "L" else (10, 10, 10))
        image.putpixel((1, 0), 0 if mode != "RGB" else (0, 0, 0))
        if mode == "P":
            image.putpalette([0, 0, 0, 10, 10, 10])
        content = file_of(image, transparency=0 if mode != "RGB" else (0, 0, 0))
    read = read_picture(content, "image")
    assert read.mode == "RGBA"
    assert [read.getpixel(at)[3] for at in ((0, 0), (1, 0))] == [255, 0]  # type: ignore[index]


def test_an_alpha_that_hides_nothing_is_none() -> None:
    assert read_picture(file_of(Image.new("RGBA", (4, 4), (9, 8, 7, 255))), "image").mode == "RGB"


def test_cmyk_and_palettes_are_colours() -> None:
    cmyk = read_picture(file_of(cornered(64, 64).convert("CMYK"), "JPEG", quality=95), "image")
    palette = read_picture(file_of(cornered().convert("P", palette=Image.Palette.ADAPTIVE)), "image")
    for image in (cmyk, palette):
        assert image.mode == "RGB"
        assert [max(range(3), key=colour.__getitem__) for colour in corners(image)[:3]] == [0, 1, 2]


def test_a_colour_profile_is_heeded_and_a_broken_one_is_not() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    swapped = read_picture(file_of(red, icc_profile=swapped_profile()), "image").getpixel((0, 0))
    assert swapped[1] > 200 and swapped[0] < 60  # type: ignore[index]
    assert read_picture(file_of(red, icc_profile=b"no profile"), "image").getpixel((0, 0)) == (255, 0, 0)
    clear = red.copy()
    clear.putalpha(7)
    kept = read_picture(file_of(clear, icc_profile=swapped_profile()), "image").getpixel((0, 0))
    assert kept[1] > 200 and kept[3] == 7  # type: ignore[index]


def test_the_profile_of_every_camera_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = file_of(cornered(), icc_profile=profile)
    assert read_picture(content, "image").tobytes() == cornered().tobytes()


def test_of_a_film_the_first_picture_is_read() -> None:
    second = Image.new("RGB", (32, 16), "white")
    for kind in ("GIF", "WEBP", "PNG"):
        content = file_of(
            cornered(),
            kind,
            save_all=True,
            append_images=[second],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        assert corners(read_picture(content, "image")) == list(CORNERS)


def test_no_other_program_is_ever_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    for module, name in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn")):
        monkeypatch.setattr(module, name, never)
    for content in (
        EPS,
        b"\xc5\xd0\xd3\xc6" + EPS,
        b"%PDF-1.4\n%%EOF",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ):
        assert "PNG, JPEG, WebP" in str(refused(content))


def test_text_that_unpacks_to_much_is_refused_and_its_memory_is_back() -> None:
    content = text_bomb()
    assert len(content) < 100_000
    before = psutil.Process().memory_info().rss
    assert "without metadata" in str(refused(content, "file"))
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 30_000_000


def test_much_text_in_small_pieces_is_refused_too() -> None:
    content = file_of(Image.new("RGB", (4, 4)))
    for index in range(8):
        content = with_chunk(content, b"tEXt", b"%d\0" % index + b"a" * 900_000)
    assert "without metadata" in str(refused(content))


def test_a_picture_that_says_it_is_huge_is_refused_by_what_it_says() -> None:
    for edge in (5000, 30000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        assert "24 megapixels" in str(refused(content, "file"))


def test_a_picture_that_ends_before_its_end_is_damaged() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        content = file_of(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
        assert "image" in str(refused(content[: len(content) // 2]))


def test_masks_are_read_in_both_customs() -> None:
    openai = Image.new("RGBA", (4, 2), (255, 255, 255, 255))
    openai.paste((0, 0, 0, 0), (0, 0, 2, 2))
    painted = Image.new("L", (4, 2), 0)
    painted.paste(255, (0, 0, 2, 2))
    wanted = painted.tobytes()
    for image in (openai, painted, painted.convert("RGB"), painted.convert("RGBA"), painted.convert("1")):
        assert read_mask(file_of(image), "mask").tobytes() == wanted
    deep = Image.new("I;16", (4, 2), 0)
    deep.paste(65535, (0, 0, 2, 2))
    assert read_mask(file_of(deep), "mask").tobytes() == wanted


def test_what_is_transparent_is_white_paper_where_a_pipeline_knows_no_alpha() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    flat = reading.opaque(image)
    assert [flat.getpixel(at) for at in ((0, 0), (1, 0))] == [(255,) * 3, (0,) * 3]


KINDS = st.sampled_from(["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
FILES = {
    kind: file_of(cornered(16, 16), kind) for kind in ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
}


def reads_or_refuses(content: bytes) -> None:
    try:
        image = read_picture(content, "image")
    except EngineError as error:
        assert (error.kind, error.field) == ("validation", "image")
    else:
        assert image.mode in ("RGB", "RGBA") and image.width * image.height <= reading.MAX_PIXELS


@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_an_error(content: bytes) -> None:
    reads_or_refuses(content)


@settings(max_examples=400, deadline=None)
@given(
    KINDS,
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_any_damage_to_a_picture_leaves_a_picture_or_an_error(
    kind: str, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(FILES[kind])
    for at, value in changes:
        content[at % len(content)] = value
    reads_or_refuses(bytes(content[: len(content) - cut * len(content) // 4]))
