"""Images, whole and streamed with previews, as OpenAI's API reference describes them."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.fields import IMAGES
from stoker.schemas.job_events import Completed, ImageOutput, Preview, Queued, Terminal
from stoker.schemas.jobs import Job
from stoker.schemas.openai import GeneratedImage, ImageEditRequest, ImageGenerationRequest, ImageList
from stoker.services.gateway.edge.decoding import unread
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.fields import lost
from stoker.services.gateway.edge.forms import read_form
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import openai_paths, post, post_body
from stoker.services.gateway.edge.sse import sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import admitted
from stoker.services.gateway.jobs.outcomes import completed_or_raise, observe_end
from stoker.services.gateway.jobs.own_jobs import Waiting, error_event, finished, followed, job_headers
from stoker.services.gateway.jobs.remote_files import picture_of
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.requests import edit_input, generation_input
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.records.blobs import attach, get_pictures


@post_body(
    *openai_paths("/images/generations"),
    summary="Draw",
    asks=ImageGenerationRequest,
    fields=IMAGES,
    answers=ImageList,
    dialect="openai",
)
async def generate(gateway: Gateway, exchange: Exchange, asked: ImageGenerationRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    drawn = generation_input(asked, model)
    job = gateway.submission.make_job(model, adapter, drawn, seed=asked.seed, wants_events=asked.stream)
    await _answer(gateway, exchange, asked, job)


@post(
    *openai_paths("/images/edits"),
    summary="Draw from a picture",
    asks=ImageEditRequest,
    answers=ImageList,
    takes="multipart/form-data",
    dialect="openai",
)
async def edit(gateway: Gateway, exchange: Exchange) -> None:
    """Draw from a picture; with a mask only where the mask is transparent."""
    form = read_form(exchange.header(b"content-type"), await exchange.body())
    asked = form.as_struct(ImageEditRequest)
    exchange.ignore(lost(unread(ImageEditRequest, dict(form.fields)), IMAGES))
    model, adapter = split_adapter(asked.model, gateway.models)
    drawn = edit_input(asked, model)
    job = gateway.submission.make_job(model, adapter, drawn, seed=asked.seed, wants_events=asked.stream)
    files = {"image": await attach(gateway.bus, f"{job.id}/image", await picture_of(gateway, form, "image"))}
    if form.has_file("mask"):
        mask = await picture_of(gateway, form, "mask")
        files["mask_image"] = await attach(gateway.bus, f"{job.id}/mask", mask)
    await _answer(gateway, exchange, asked, with_input(job, msgspec.structs.replace(drawn, files=files)))


async def _answer(gateway: Gateway, exchange: Exchange, asked: ImageGenerationRequest, job: Job) -> None:
    if asked.stream:
        [job] = await admitted(gateway, [job], exchange.body_bytes)
        name = "image_edit" if isinstance(asked, ImageEditRequest) else "image_generation"
        await exchange.stream(gateway.streams_open, _events(gateway, job, name), job_headers(job))
        return
    completed, attached = await finished(gateway, exchange, job)
    output = completed.output
    assert isinstance(output, ImageOutput)
    if asked.response_format == "url":
        base = f"{exchange.base_url()}/v1/jobs/{job.id}/images"
        data = [GeneratedImage(url=f"{base}/{i}", seed=p.seed) for i, p in enumerate(output.pictures)]
    else:
        pictures = await get_pictures(gateway.bus, output, attached)
        data = [
            GeneratedImage(b64_json=base64.b64encode(png).decode(), seed=picture.seed)
            for png, picture in zip(pictures, output.pictures, strict=True)
        ]
    await exchange.answer(ImageList(int(job.created_at), tuple(data)), headers=job_headers(job, completed))


async def _events(gateway: Gateway, job: Job, name: str) -> AsyncGenerator[bytes]:
    """`partial_image` events, then `completed` for each picture, each of them with the name before it:
    `image_generation`, or `image_edit`.
    """
    waiting = Waiting()
    is_begun = False
    async with followed(gateway, job) as items:
        async for item in items:
            match item:
                case None:
                    is_begun = True
                    yield waiting.comment()
                case (Queued() as queued, _):
                    if said := waiting.heard(queued):
                        is_begun = True
                        yield said
                case (Preview() as preview, png):
                    is_begun = True
                    yield _image_event(
                        f"{name}.partial_image", job, png, (preview.width, preview.height), preview.index
                    )
                case (event, attached) if isinstance(event, Terminal):
                    observe_end(event)
                    try:
                        completed = completed_or_raise(event)
                    except RequestError as error:
                        if not is_begun:
                            raise
                        yield error_event(error)
                        return
                    yield await _completed_images(gateway, job, name, completed, attached)


async def _completed_images(
    gateway: Gateway, job: Job, name: str, completed: Completed, attached: bytes
) -> bytes:
    output = completed.output
    assert isinstance(output, ImageOutput)
    pictures = await get_pictures(gateway.bus, output, attached)
    details = output.details
    told = {"cut_prompt": details.get("cut_prompt_tokens"), "remark": details.get("remark")}
    return b"".join(
        _image_event(
            f"{name}.completed", job, png, (picture.width, picture.height), None, picture.content_type, told
        )
        for png, picture in zip(pictures, output.pictures, strict=True)
    )


def _image_event(
    kind: str,
    job: Job,
    png: bytes,
    size: tuple[int, int],
    index: int | None,
    content_type: str = "image/png",
    told: dict[str, Any] | None = None,
) -> bytes:
    """told: what was not drawn as asked; None where there is nothing."""
    body: dict[str, Any] = {
        "type": kind,
        "b64_json": base64.b64encode(png).decode(),
        "created_at": int(job.created_at),
        "size": f"{size[0]}x{size[1]}",
        "quality": "auto",
        "background": "opaque",
        "output_format": content_type.rpartition("/")[2],
    }
    if index is not None:
        body["partial_image_index"] = index
    else:
        body["usage"] = {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        }
    body |= {name: value for name, value in (told or {}).items() if value}
    return sse(wire.encode(body), kind)


ROUTES = [generate, edit]
