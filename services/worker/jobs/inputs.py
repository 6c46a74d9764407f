"""What a job brings along: files, LoRAs, more models, the text of its earlier attempts."""

import base64
from typing import Any

import msgspec

from schemas import wire
from schemas.jobs import Attachment, FunctionInput, ImageInput, JobInput, UpscaleInput
from schemas.workers import JobCommand, SentText
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.records.blobs import BlobGone, read_blob
from services.worker.jobs.attempt import Attempt
from services.worker.models.asking import LoadError
from services.worker.models.loader import Loader
from services.worker.models.weights.resolve import WeightsError

RESUME_TIMEOUT_S = 1.0


async def ask_sent(bus: Bus, attempt: Attempt) -> str:
    """The text that earlier attempts sent to the client; "" when its gateway is gone."""
    job = attempt.assignment.job
    try:
        subject = bus.subjects.gateway(job.gateway, "sent")
        sent = await bus.ask(subject, JobCommand(job.id), SentText, RESUME_TIMEOUT_S)
    except (BusError, wire.UnreadableMessage):
        return ""  # the same seed makes the same text from the beginning
    text: str = sent.text
    return text


def brings_more(job_input: JobInput) -> bool:
    """Whether something must be fetched before the job can run."""
    match job_input:
        case ImageInput(files=files, loras=loras):
            return bool(loras) or any(file.blob for file in files.values())
        case UpscaleInput(files=files):
            return any(file.blob for file in files.values())
        case FunctionInput(models=models, files=files):
            return len(set(models.values())) > 1 or bool(files)
        case _:
            return False


async def fetch(bus: Bus, loader: Loader, attempt: Attempt) -> None:
    """Bring them here: the attempt's input has its bytes and paths then. Raises LoadError, BusError."""
    asked = attempt.input
    if isinstance(asked, FunctionInput):
        attempt.input = await _with_files(bus, asked)
        return
    assert isinstance(asked, ImageInput | UpscaleInput)
    try:
        files = {name: Attachment(await _content(bus, file)) for name, file in asked.files.items()}
        attempt.input = msgspec.structs.replace(asked, files=files)
        if isinstance(asked, ImageInput):
            attempt.loras = await loader.fetch_all(attempt.model, asked.loras)
    except (BlobGone, WeightsError) as error:
        raise LoadError(str(error)) from error


async def _with_files(bus: Bus, asked: FunctionInput) -> FunctionInput:
    """The same call with the bytes of the files that its payload names, as data: URLs.

    Raises LoadError, BusError.
    """
    try:
        contents = {url: await _content(bus, file) for url, file in asked.files.items()}
    except BlobGone as error:
        raise LoadError(str(error)) from error
    urls = {url: f"data:;base64,{base64.b64encode(content).decode()}" for url, content in contents.items()}
    return msgspec.structs.replace(asked, payload=_renamed(asked.payload, urls), files={})


def _renamed(value: Any, urls: dict[str, str]) -> Any:
    """A payload with other URLs."""
    if isinstance(value, dict):
        return {
            key: urls.get(inner, inner) if key == "url" and isinstance(inner, str) else _renamed(inner, urls)
            for key, inner in value.items()
        }
    return [_renamed(inner, urls) for inner in value] if isinstance(value, list) else value


def companions_of(attempt: Attempt) -> list[str]:
    """The other models that a function is given: hot, and kept so, while it runs."""
    asked = attempt.input
    return sorted(set(asked.models.values()) - {attempt.model}) if isinstance(asked, FunctionInput) else []


async def _content(bus: Bus, file: Attachment) -> bytes:
    return await read_blob(bus, file.blob) if file.blob else file.content
