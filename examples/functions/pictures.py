"""A preprocessing job on the CPU: a file comes in, a smaller one goes out."""

import msgspec

from stoker import ActionContext, FileRef, ResourceRequirements, worker_function


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
    image = ctx.read_image(payload.picture)
    image.thumbnail((payload.edge, payload.edge))
    return Shrunk(ctx.save_image(image, "small.png"), image.width, image.height)
