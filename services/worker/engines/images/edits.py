"""Drawing from a picture: which size it is drawn at, where, and what of it is kept to the last bit.

A picture is drawn at its own size, as near as a pipeline can, and then brought to exactly that size. With a
mask, what is to be kept comes from the picture itself and not from the decoder; over EDGE_PX both are blended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageFilter

from stoker.schemas.jobs import ImageInput
from stoker.services.worker.engines.images.clips import Clip
from stoker.services.worker.engines.images.reading import mask_of, opaque, read_mask, read_picture

MULTIPLE_PX = 8
MAX_EDGE_PX = 2048
"""A larger picture is drawn smaller, and enlarged afterwards: no pipeline knows how to draw it."""
ROUNDING_PX = 64
"""A pipeline may round a size up to this; what differs by more is meant (an upscaler)."""
EDGE_RADIUS_PX = 1.5
EDGE_PX = 6
"""How far from what is drawn a kept pixel may change: three times the radius of the blend, and one."""

FILL_RADII_PX = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Of the blurs that fill what is to be drawn, coarse to fine, and how often each is laid."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Start:
    """What is drawn from. files: pictures by the pipeline's parameter, at the size they are drawn at.

    source: RGB, at the size that the result is to have; None where nothing is drawn from a picture.
    mask: L, of the same size, white where to draw; None draws everywhere.
    """

    files: Mapping[str, Image.Image]
    source: Image.Image | None = None
    mask: Image.Image | None = None

    @property
    def drawn_size(self) -> Size | None:
        """Width and height to draw, in pixels."""
        return None if self.source is None else drawable(self.source.size)

    def finished(self, drawn: Image.Image | Clip) -> Image.Image | Clip:
        """What was drawn, at the size of the source, with what is kept of it. Videos stay as they are."""
        if self.source is None or isinstance(drawn, Clip):
            return drawn
        wanted, size = self.drawn_size or drawn.size, self.source.size
        is_rounded = all(abs(is_ - was) < ROUNDING_PX for is_, was in zip(drawn.size, wanted, strict=True))
        if self.mask is None:
            return drawn.resize(size, Image.Resampling.LANCZOS) if is_rounded and drawn.size != size else drawn
        whole = drawn.resize(size, Image.Resampling.LANCZOS) if drawn.size != size else drawn
        soft = ImageChops.lighter(self.mask, self.mask.filter(ImageFilter.GaussianBlur(EDGE_RADIUS_PX)))
        return Image.composite(whole.convert("RGB"), self.source, soft)


def drawable(size: Size) -> Size:
    """The nearest size that pipelines can draw: multiples of MULTIPLE_PX, no edge over MAX_EDGE_PX."""
    scale = min(MAX_EDGE_PX / max(size), 1.0)
    width, height = (max(round(edge * scale / MULTIPLE_PX), 1) * MULTIPLE_PX for edge in size)
    return width, height


def start_of(asked: ImageInput, *, can_inpaint: bool) -> Start:
    """The pictures of a request. Raises EngineError "validation" for one that cannot be read.

    can_inpaint: the pipeline can draw a part of a picture.
    """
    read = {
        name: read_mask(file.content, asked.name_of(name))
        if name == "mask_image"
        else read_picture(file.content, asked.name_of(name))
        for name, file in asked.files.items()
    }
    image = read.get("image")
    if image is None:
        return Start({name: opaque(one) if name != "mask_image" else one for name, one in read.items()})
    mask = read.get("mask_image")
    if mask is None and asked.draws_transparent and can_inpaint and (mask := mask_of(image)) is not None:
        image = image.convert("RGB")  # the colours below the transparency: what is half kept is kept as it is
    size = (asked.width or image.width, asked.height or image.height)
    if mask is not None and asked.inverts_mask:
        mask = ImageChops.invert(mask)
    source = _resized(opaque(image), size)
    others = {name: opaque(one) for name, one in read.items() if name not in ("image", "mask_image")}
    files = others | {"image": _resized(source, drawable(size))}
    if mask is not None:
        mask = _resized(mask, size)
        files["mask_image"] = _resized(mask, drawable(size))
        if asked.fills_mask:
            files["image"] = _filled(files["image"], files["mask_image"])
    return Start(files, source, mask)


def _filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What is to be drawn, covered by the blur of what is around it: as A1111's modules/masking.py does it."""
    kept = Image.new("RGBa", image.size)
    kept.paste(image.convert("RGBA").convert("RGBa"), mask=ImageChops.invert(mask))
    filled = Image.new("RGBA", image.size)
    for radius, times in FILL_RADII_PX:
        blurred = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            filled.alpha_composite(blurred)
    return opaque(filled)


def _resized(image: Image.Image, size: Size) -> Image.Image:
    how = Image.Resampling.BILINEAR if image.mode == "L" else Image.Resampling.LANCZOS
    return image if image.size == size else image.resize(size, how)


def with_a_step(strength: float, steps: int) -> float:
    """The strength, raised where a pipeline would take no step at all: they take int(steps x strength)."""
    if strength <= 0 or int(steps * strength) >= 1:
        return strength
    return min((1 + 1e-6) / steps, 1.0)


def kept_whole(start: Start, count: int) -> Sequence[Image.Image]:
    """What strength 0 draws: the picture itself, so many times."""
    assert start.source is not None
    return [start.source] * count
