"""A preprocessing job on the CPU: a file comes in, a smaller one goes out."""

import io

import msgspec
from PIL import Image, UnidentifiedImageError

from stoker import ActionContext, FileRef, ResourceRequirements, ValidationError, worker_function


class Shrink(msgspec.Struct):
    picture: FileRef
    edge: int = 64


class Shrunk(msgspec.Struct):
    picture: FileRef
    width: int
    height: int


@worker_function(ResourceRequirements(libraries=("PIL",), concurrency=4))
def shrink(ctx: ActionContext, payload: Shrink) -> Shrunk:
    """Make a picture fit a square, keeping its proportions."""
    try:
        image = Image.open(io.BytesIO(ctx.read_file(payload.picture)))
        image.thumbnail((payload.edge, payload.edge))
    except UnidentifiedImageError as error:
        raise ValidationError("picture is not an image") from error
    return Shrunk(ctx.save_image(image, "small.png"), image.width, image.height)
