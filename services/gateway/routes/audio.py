"""Speech to text, whole and streamed, as OpenAI's API reference describes it."""

from collections.abc import AsyncGenerator

import msgspec

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, Delta, Queued, Terminal, ValueOutput
from stoker.schemas.jobs import Job
from stoker.schemas.openai import Transcription, TranscriptionRequest, TranslationRequest
from stoker.schemas.transcripts import Transcript
from stoker.services.gateway.edge.decoding import unread
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.forms import Form, read_form
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import openai_paths, post
from stoker.services.gateway.edge.sse import sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import admitted
from stoker.services.gateway.jobs.outcomes import completed_or_raise, observe_end
from stoker.services.gateway.jobs.own_jobs import Waiting, error_event, finished, followed, job_headers
from stoker.services.gateway.jobs.request_rules import need, split_adapter
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.gateway.jobs.transcriptions import AUDIO, spoken_input, with_audio
from stoker.services.gateway.jobs.transcripts import answer_of
from stoker.services.records.blobs import attach, with_value

WHAT = "audio"


@post(
    *openai_paths("/audio/transcriptions"),
    summary="Write down what is said",
    asks=TranscriptionRequest,
    answers=Transcription,
    takes="multipart/form-data",
    dialect="openai",
)
async def transcribe(gateway: Gateway, exchange: Exchange) -> None:
    form = read_form(exchange.header(b"content-type"), await exchange.body(), WHAT)
    asked = form.as_struct(TranscriptionRequest)
    job = await _job(gateway, exchange, form, asked)
    if asked.stream:
        [job] = await admitted(gateway, [job], exchange.body_bytes)
        await exchange.stream(gateway.streams_open, _events(gateway, job), job_headers(job))
        return
    await _answer(gateway, exchange, asked, job)


@post(
    *openai_paths("/audio/translations"),
    summary="Say in English what is said",
    asks=TranslationRequest,
    answers=Transcription,
    takes="multipart/form-data",
    dialect="openai",
)
async def translate(gateway: Gateway, exchange: Exchange) -> None:
    form = read_form(exchange.header(b"content-type"), await exchange.body(), WHAT)
    asked = form.as_struct(TranslationRequest)
    await _answer(gateway, exchange, asked, await _job(gateway, exchange, form, asked))


async def _job(gateway: Gateway, exchange: Exchange, form: Form, asked: TranslationRequest) -> Job:
    """The job with its sound. Raises RequestError."""
    exchange.ignore(unread(type(asked), dict(form.fields)))
    model, adapter = split_adapter(asked.model, gateway.models)
    need(model, "SpeechToText")
    spoken = spoken_input(asked, model)
    content = form.file("file", WHAT)
    wants_events = isinstance(asked, TranscriptionRequest) and asked.stream
    job = gateway.submission.make_job(model, adapter, spoken, wants_events=wants_events)
    file = await attach(gateway.bus, f"{job.id}/{AUDIO}", content)
    return with_input(job, with_audio(spoken, file, len(content)))


async def _answer(gateway: Gateway, exchange: Exchange, asked: TranslationRequest, job: Job) -> None:
    completed, _ = await finished(gateway, exchange, job)
    body, media_type = answer_of(await _transcript(gateway, completed), asked)
    await exchange.answer_bytes(body, media_type, headers=job_headers(job, completed))


async def _transcript(gateway: Gateway, completed: Completed) -> Transcript:
    """Raises BlobGone."""
    whole = await with_value(gateway.bus, completed)
    assert isinstance(whole, Completed)
    assert isinstance(whole.output, ValueOutput)
    return msgspec.convert(whole.output.value, Transcript)


async def _events(gateway: Gateway, job: Job) -> AsyncGenerator[bytes]:
    """`transcript.text.delta` for each segment, then `transcript.text.done`."""
    waiting = Waiting()
    given = ""
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
                case (Delta(text=text), _):
                    is_begun = True
                    given += text
                    yield _event("delta", delta=text)
                case (event, _) if isinstance(event, Terminal):
                    observe_end(event)
                    try:
                        completed = completed_or_raise(event)
                    except RequestError as error:
                        if not is_begun:
                            raise
                        yield error_event(error)
                        return
                    text = (await _transcript(gateway, completed)).text
                    if len(text) > len(given) and text.startswith(given):  # the rest was lost on the way
                        yield _event("delta", delta=text[len(given) :])
                    yield _event("done", text=text)


def _event(kind: str, **fields: str) -> bytes:
    return sse(wire.encode({"type": f"transcript.text.{kind}", **fields}))


ROUTES = [transcribe, translate]
