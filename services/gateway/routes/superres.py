"""Super-resolution of an uploaded picture."""

import msgspec

from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.forms import read_form
from stoker.services.gateway.edge.routing import post
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.remote_files import picture_of
from stoker.services.gateway.jobs.super_resolution import check_options, enlarge, find_upscaler


class SuperResolutionForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """file: the picture as base64 or as a URL, where it is not sent as a file."""

    file: str = ""
    magnitude: int = 2
    out_format: str = "png"
    quality: int = 92


@post(
    "/superres",
    summary="Enlarge a picture",
    asks=SuperResolutionForm,
    takes="multipart/form-data",
    gives="image/png",
)
async def superres(gateway: Gateway, exchange: Exchange) -> None:
    form = read_form(exchange.header(b"content-type"), await exchange.body())
    asked = form.as_struct(SuperResolutionForm)
    check_options(asked.magnitude, asked.out_format, asked.quality)
    picture = await picture_of(gateway, form, "file")
    upscaler = find_upscaler(gateway)
    content, media_type, headers = await enlarge(
        gateway, exchange, upscaler, picture, asked.magnitude, asked.out_format, asked.quality
    )
    await exchange.answer_bytes(content, media_type, headers=headers | {"Cache-Control": "no-store"})


ROUTES = [superres]
