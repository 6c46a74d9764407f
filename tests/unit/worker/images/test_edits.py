"""Drawing from a picture: the size to draw at, the size that comes out, and what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stoker.schemas.jobs import Attachment, ImageInput
from stoker.services.worker.engines.base import EngineError
from stoker.services.worker.engines.images.edits import (
    EDGE_PX,
    MAX_EDGE_PX,
    MULTIPLE_PX,
    Start,
    drawable,
    start_of,
    with_a_step,
)
from tests.unit.worker.images.made import cornered, file_of, oriented

EDGES = st.integers(1, 6000)


def started(can_inpaint: bool = True, **given: object) -> Start:
    files = {
        name: Attachment(file_of(image) if isinstance(image, Image.Image) else image)  # type: ignore[arg-type]
        for name, image in given.items()
        if name in ("image", "mask_image", "control_image")
    }
    others = {name: value for name, value in given.items() if name not in files}
    return start_of(
        ImageInput("x", files=files, fields={"mask_image": "mask"}, **others), can_inpaint=can_inpaint
    )  # type: ignore[arg-type]


def left_half(size: tuple[int, int] = (130, 70), *, is_clear: bool = False) -> Image.Image:
    """A mask that has the left half drawn, in either custom."""
    mask = Image.new("RGBA" if is_clear else "L", size, (0, 0, 0, 255) if is_clear else 0)
    mask.paste((0, 0, 0, 0) if is_clear else 255, (0, 0, size[0] // 2, size[1]))
    return mask


@given(EDGES, EDGES)
def test_a_size_to_draw_is_one_that_pipelines_can_and_nearly_the_pictures(width: int, height: int) -> None:
    drawn = drawable((width, height))
    assert all(edge % MULTIPLE_PX == 0 and MULTIPLE_PX <= edge <= MAX_EDGE_PX for edge in drawn)
    if max(width, height) <= MAX_EDGE_PX and min(width, height) >= MULTIPLE_PX:
        assert all(abs(a - b) <= MULTIPLE_PX / 2 for a, b in zip(drawn, (width, height), strict=True))


def test_a_picture_is_drawn_at_its_own_size_and_comes_out_at_exactly_it() -> None:
    start = started(image=cornered(130, 70))
    assert start.drawn_size == start.files["image"].size == (128, 72)
    assert start.finished(Image.new("RGB", (128, 72))).size == (130, 70)
    assert start.finished(Image.new("RGB", (128, 128))).size == (130, 70)  # a pipeline that rounds up to 64
    assert start.finished(Image.new("RGB", (512, 288))).size == (512, 288)  # one that enlarges
    large = started(image=Image.new("RGB", (4100, 1000)))
    assert large.drawn_size == (2048, 496)
    assert large.finished(Image.new("RGB", (2048, 496))).size == (4100, 1000)


def test_a_size_that_is_asked_for_is_what_comes_out() -> None:
    start = started(image=cornered(130, 70), width=64, height=96)
    assert start.drawn_size == (64, 96) and start.source is not None and start.source.size == (64, 96)
    assert started(image=cornered(130, 70), width=64).drawn_size == (64, 72)


def test_a_picture_is_turned_before_it_is_measured() -> None:
    assert started(image=oriented(6, "JPEG", cornered(128, 64))).drawn_size == (64, 128)


@pytest.mark.parametrize("is_clear", [False, True])
def test_what_the_mask_keeps_is_the_picture_itself(is_clear: bool) -> None:
    picture = cornered(130, 70)
    start = started(image=picture, mask_image=left_half(is_clear=is_clear))
    assert start.files["mask_image"].size == start.drawn_size
    out = start.finished(Image.new("RGB", (128, 72), (9, 9, 9)))
    kept = (65 + EDGE_PX, 0, 130, 70)
    assert out.size == picture.size and out.crop(kept).tobytes() == picture.crop(kept).tobytes()
    assert out.crop((0, 0, 65, 70)).getcolors() == [(65 * 70, (9, 9, 9))]  # all that is to be drawn is


def test_where_all_is_kept_nothing_changes() -> None:
    start = started(image=cornered(130, 70), mask_image=Image.new("L", (130, 70), 0))
    assert start.finished(Image.new("RGB", (128, 72))).tobytes() == cornered(130, 70).tobytes()


def test_a_mask_of_another_size_covers_the_same_part() -> None:
    start = started(image=cornered(130, 70), mask_image=left_half((260, 140)))
    assert start.mask is not None and start.mask.size == (130, 70)
    assert (start.mask.getpixel((60, 30)), start.mask.getpixel((70, 30))) == (255, 0)


def test_the_transparent_part_is_the_mask_where_an_edit_has_none() -> None:
    picture = cornered(128, 64)
    picture.putalpha(left_half((128, 64), is_clear=True).getchannel("A"))
    start = started(image=picture, draws_transparent=True)
    assert start.mask is not None and start.mask.tobytes() == left_half((128, 64)).tobytes()
    assert start.source is not None and start.source.tobytes() == cornered(128, 64).tobytes()
    explicit = started(image=picture, draws_transparent=True, mask_image=Image.new("L", (128, 64), 255))
    assert explicit.mask is not None and explicit.mask.getextrema() == (255, 255)


@pytest.mark.parametrize("why", ["not asked for", "the pipeline cannot", "nothing is transparent"])
def test_else_it_is_white_paper(why: str) -> None:
    picture = cornered(128, 64)
    picture.putalpha(
        255 if why == "nothing is transparent" else left_half((128, 64), is_clear=True).getchannel("A")
    )
    start = started(
        image=picture, draws_transparent=why != "not asked for", can_inpaint=why != "the pipeline cannot"
    )
    assert start.mask is None and set(start.files) == {"image"}
    if why != "nothing is transparent":
        assert start.files["image"].getpixel((0, 0)) == (255, 255, 255)


def test_pictures_beside_the_one_that_is_drawn_from_are_left_as_they_are() -> None:
    start = started(image=cornered(130, 70), control_image=cornered(50, 40))
    assert start.files["control_image"].size == (50, 40)
    alone = started(control_image=cornered(50, 40))
    assert alone.source is None and alone.drawn_size is None
    drawn = Image.new("RGB", (64, 64))
    assert alone.finished(drawn) is drawn


@pytest.mark.parametrize(("name", "field"), [("image", "image"), ("mask_image", "mask")])
def test_an_error_names_the_field_of_the_request(name: str, field: str) -> None:
    with pytest.raises(EngineError) as found:
        started(**({"image": cornered()} | {name: b"nothing"}))
    assert (found.value.field, found.value.kind) == (field, "validation")


@given(st.floats(0.0001, 1), st.integers(1, 150))
def test_there_is_at_least_one_step(strength: float, steps: int) -> None:
    raised = with_a_step(strength, steps)
    assert int(steps * raised) >= 1 and strength <= raised <= 1
    if int(steps * strength) >= 1:
        assert raised == strength


def test_strength_zero_stays_zero() -> None:
    assert with_a_step(0, 30) == 0
