"""What a job brings along: files, LoRAs, more models, the text of its earlier attempts."""

import asyncio
import os
from contextlib import aclosing
from pathlib import Path

import msgspec

from stoker.schemas import wire
from stoker.schemas.jobs import (
    Attachment,
    ChatInput,
    CompletionInput,
    FunctionInput,
    ImageInput,
    JobInput,
    StoredInput,
    TranscriptionInput,
    UpscaleInput,
)
from stoker.schemas.workers import SentRequest, SentText
from stoker.services.bus.connection import Bus
from stoker.services.records.blobs import read_blob
from stoker.services.records.files import chunks_of
from stoker.services.records.parts import into_file
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.weights.resolve import WeightsError

SENT_ANSWERS_S = 0.2
"""How long gateways have to say what they have passed on; it delays only jobs whose worker was lost."""


def can_go_on(asked: JobInput) -> bool:
    """Whether an engine can go on with a text that another has begun, as if it had been one run.

    Not where what came before counts: a grammar that would begin anew, penalties that some engines count over
    the output alone, the chances of the tokens that were sent.
    """
    match asked:
        case (
            ChatInput(response_format=None, tools=(), logprobs=None, sampling=sampling)
            | CompletionInput(logprobs=None, suffix="", tokens=(), sampling=sampling)
        ):
            return not (sampling.presence_penalty or sampling.frequency_penalty)
        case _:
            return False


async def ask_sent(bus: Bus, attempt: Attempt) -> SentText:
    """The longest text of earlier attempts that a client was given, at any gateway.

    "" where nobody says so, or not how many tokens it has, or where a part of it is reasoning, which chat
    templates cannot be made to go on with: then the same seed makes the same text from the beginning, and who
    has had a part of it is given the rest.
    """
    asked = SentRequest(attempt.job, attempt.assignment.seal)
    answers: list[SentText] = await bus.ask_all(bus.subjects.sent(), asked, SentText, SENT_ANSWERS_S)
    longest = max(answers, key=lambda answer: len(answer.text), default=SentText())
    return longest if longest.tokens and not longest.has_reasoning else SentText()


def brings_more(job_input: JobInput) -> bool:
    """Whether something must be fetched before the job can run."""
    match job_input:
        case ImageInput(files=files, loras=loras):
            return bool(loras) or any(map(_is_elsewhere, files.values()))
        case UpscaleInput(files=files) | TranscriptionInput(files=files):
            return any(map(_is_elsewhere, files.values()))
        case FunctionInput(models=models, files=files):
            return len(set(models.values())) > 1 or bool(files)
        case StoredInput():
            return True
        case _:
            return False


def _is_elsewhere(file: Attachment) -> bool:
    return bool(file.blob or file.segments)


async def fetch(bus: Bus, loader: Loader, attempt: Attempt) -> None:
    """Bring them here: the attempt's input has bytes and paths then. Raises PartsGone, LoadError, BusError,
    LimitExceeded, OSError, wire.UnreadableMessage.
    """
    asked = attempt.input
    if isinstance(asked, StoredInput):
        attempt.input = wire.decode(JobInput, await read_blob(bus, asked.blob))
        if brings_more(attempt.input) and not isinstance(attempt.input, StoredInput):
            await fetch(bus, loader, attempt)
        return
    if isinstance(asked, FunctionInput):
        attempt.files = await _bring_files(bus, asked, attempt.folder)
        attempt.input = msgspec.structs.replace(asked, files={})
        return
    assert isinstance(asked, ImageInput | UpscaleInput | TranscriptionInput)
    try:
        files = {name: Attachment(await _content(bus, file)) for name, file in asked.files.items()}
        attempt.input = msgspec.structs.replace(asked, files=files)
        if isinstance(asked, ImageInput):
            attempt.loras = await loader.fetch_all(attempt.model, asked.loras)
    except WeightsError as error:
        raise LoadError(str(error)) from error


async def _bring_files(bus: Bus, asked: FunctionInput, folder: str) -> dict[str, str]:
    """The files that a payload names, in a folder on this disk; where, by what the payload says.

    Raises PartsGone, BusError, LimitExceeded, OSError.
    """
    if asked.files:
        await asyncio.to_thread(os.makedirs, folder, 0o700, exist_ok=True)
    paths: dict[str, str] = {}
    for number, (named, file) in enumerate(sorted(asked.files.items())):
        path = Path(folder) / f"given-{number}"
        async with aclosing(await chunks_of(bus, file)) as chunks:
            await into_file(path, chunks)
        paths[named] = str(path)
    return paths


def companions_of(attempt: Attempt) -> list[str]:
    """The other models that a function is given: hot, and kept so, while it runs."""
    asked = attempt.input
    return sorted(set(asked.models.values()) - {attempt.model}) if isinstance(asked, FunctionInput) else []


async def _content(bus: Bus, file: Attachment) -> bytes:
    """Raises PartsGone, BusError, LimitExceeded."""
    async with aclosing(await chunks_of(bus, file)) as chunks:
        return b"".join([chunk async for chunk in chunks])
