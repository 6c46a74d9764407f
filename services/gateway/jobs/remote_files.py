"""What jobs name by the URL of another server, fetched before they are accepted (fetching.py)."""

import msgspec

from stoker.functions.context import MAX_FILE_BYTES
from stoker.schemas.jobs import Attachment, ChatInput, FunctionInput, ImageInput, Job
from stoker.schemas.openai import ChatMessage, ImagePart, ImageUrl
from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.forms import Form
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.fetching import MAX_PICTURE_BYTES, Fetching
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.file_names import REMOTE
from stoker.services.gateway.jobs.function_calls import files_of
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.records.blobs import write_blob_of


def is_remote(part: object) -> bool:
    """Whether a part of a message is a picture that lies elsewhere."""
    return isinstance(part, ImagePart) and REMOTE.match(part.image_url.url) is not None


def has_remote_pictures(job: Job) -> bool:
    """Whether a chat has some, or what a ControlNet follows is one."""
    if isinstance(job.input, ImageInput):
        return job.input.control is not None and bool(job.input.control.url)
    return isinstance(job.input, ChatInput) and any(
        isinstance(message.content, tuple) and any(map(is_remote, message.content))
        for message in job.input.messages
    )


async def with_pictures(fetching: Fetching, job: Job) -> Job:
    """The same job with the bytes of its pictures. Raises RequestError 400, 413, 429, 503 with the field,
    ClientGone.
    """
    if isinstance(job.input, ImageInput) and (control := job.input.control) is not None:
        image = decoded(await fetching.picture(control.url, "controlnet.image", MAX_PICTURE_BYTES))
        followed = msgspec.structs.replace(control, image=image, url="")
        return with_input(job, msgspec.structs.replace(job.input, control=followed))
    assert isinstance(job.input, ChatInput)
    messages: list[ChatMessage] = []
    fetched: dict[str, str] = {}
    for index, message in enumerate(job.input.messages):
        parts = message.content if isinstance(message.content, tuple) else ()
        for part in parts:
            if isinstance(part, ImagePart) and is_remote(part):
                await _fetch(fetching, part.image_url.url, f"messages[{index}].content", fetched)
        content = tuple(_with_bytes(part, fetched) if isinstance(part, ImagePart) else part for part in parts)
        messages.append(msgspec.structs.replace(message, content=content) if content else message)
    return with_input(job, msgspec.structs.replace(job.input, messages=tuple(messages)))


async def _fetch(fetching: Fetching, url: str, field: str, fetched: dict[str, str]) -> None:
    """Fetch a picture, unless it is there. fetched: `data:` URLs by the URLs that they lie at."""
    if url in fetched:
        return
    left = MAX_PICTURE_BYTES - sum(map(_bytes_in, fetched.values()))
    try:
        fetched[url] = await fetching.picture(url, field, left)
    except RequestError as error:
        if error.status != 413:
            raise
        message = f"{field}: the pictures of a request have at most {MAX_PICTURE_BYTES} bytes together"
        raise RequestError(413, message, field=field, code=error.code) from error


def _bytes_in(data_url: str) -> int:
    """Of what stands there as base64."""
    encoded = len(data_url) - data_url.index(",") - 1
    return encoded // 4 * 3 - data_url.count("=", len(data_url) - 2)


def _with_bytes(part: ImagePart, fetched: dict[str, str]) -> ImagePart:
    url = part.image_url.url
    return ImagePart(ImageUrl(fetched.get(url, url), part.image_url.detail))


async def with_bytes(gateway: Gateway, text: str, field: str) -> str:
    """A picture as it is given, or the `data:` URL of the one at a URL. Raises RequestError with the field."""
    if REMOTE.match(text) is None:
        return text
    return await gateway.fetching.picture(text, field, MAX_PICTURE_BYTES)


def remote_files(gateway: Gateway, asked: FunctionInput) -> dict[str, str]:
    """URLs that a function's payload names files by, with their places."""
    model = gateway.fleet.models.get(asked.function)
    if model is None or model.function is None:
        return {}
    named = files_of(model.function, asked.payload)
    return {url: place for place, url in reversed(named.items()) if REMOTE.match(url)}


async def picture_of(gateway: Gateway, form: Form, name: str) -> bytes:
    """A picture of a form: a file, or a field with its base64 or its URL. Raises RequestError."""
    if name in form.fields and name not in form.files:
        form.fields[name] = await with_bytes(gateway, form.fields[name], name)
    return form.file(name)


async def fetched_file(gateway: Gateway, url: str, place: str, most_bytes: int = MAX_FILE_BYTES) -> Attachment:
    """The file at a URL, as a blob of the job. Raises RequestError 400, 413, 503 with the field, BusError."""
    async with gateway.fetching.opened(url, place, most_bytes) as found:
        return Attachment(blob=await write_blob_of(gateway.bus, found.chunks))
