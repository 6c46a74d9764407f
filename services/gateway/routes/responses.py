"""The Responses API: a chat whose requests are kept, so that the next one can go on from it."""

from stoker.schemas.fields import RESPONSES
from stoker.schemas.job_events import TextOutput
from stoker.schemas.openai import ChatMessage
from stoker.schemas.responses import InputItems, KeptResponse, ResponseAnswer, ResponseDeleted, ResponsesRequest
from stoker.services.gateway.edge.access import is_visible, owner
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import delete, get, openai_paths, post, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.answers import JobAnswer
from stoker.services.gateway.jobs.cancelling import cancel
from stoker.services.gateway.jobs.large_inputs import fitting
from stoker.services.gateway.jobs.lookup import find_job, present_job
from stoker.services.gateway.jobs.own_jobs import job_headers
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.text_requests import chat_input
from stoker.services.gateway.text.responses_input import chat_of, conversation, items_of
from stoker.services.gateway.text.responses_output import (
    PREFIX,
    ResponseWriter,
    answer_message,
    answer_of,
    completed_answer,
    failure_of,
    response_id,
)
from stoker.services.gateway.text.runs import stream, text_jobs, text_of, whole
from stoker.services.records.conversations import forget, keep, kept_response


@post_body(
    *openai_paths("/responses"),
    summary="Answer, and keep the conversation",
    asks=ResponsesRequest,
    fields=RESPONSES,
    answers=ResponseAnswer,
    dialect="openai",
)
async def respond(gateway: Gateway, exchange: Exchange, asked: ResponsesRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    before = await conversation_before(gateway, asked.previous_response_id)
    chat = chat_of(asked, before)
    wants_events = asked.stream or asked.background
    jobs = text_jobs(
        gateway, model, adapter, [chat_input(chat, model)], seed=asked.seed, wants_events=wants_events
    )
    job = jobs[0]
    if asked.store:
        gateway.admission.check(job, impossible_status=503)
        kept = KeptResponse(asked, owner(), conversation(asked, before))
        await keep(gateway.bus, job.id, kept)
    if asked.background:
        await gateway.submission.store(await fitting(gateway, job, exchange.body_bytes))
        answer = answer_of(asked, job.id, job.created_at, "queued")
        await exchange.answer(answer, headers=job_headers(job))
    elif asked.stream:
        await stream(gateway, exchange, jobs, ResponseWriter(asked, job.id, job.created_at))
    else:
        [completed] = await whole(gateway, exchange, jobs)
        answer = completed_answer(asked, job.id, job.created_at, text_of(completed))
        await exchange.answer(answer, headers=job_headers(job, completed))


async def conversation_before(gateway: Gateway, previous: str | None) -> tuple[ChatMessage, ...]:
    """The conversation up to a response and with it. Raises RequestError 400, 404."""
    if previous is None:
        return ()
    job, kept = await _kept(gateway, previous, "previous_response_id")
    found = await find_job(gateway, job, must_be_sure=True)
    output = found[0].result if found is not None else None
    if not isinstance(output, TextOutput):
        message = f"{previous} has no answer to go on from: it is not done, or has failed"
        raise RequestError(400, message, field="previous_response_id", code="invalid_value")
    return (*kept.messages, answer_message(output))


async def _kept(gateway: Gateway, response: str, field: str = "id") -> tuple[str, KeptResponse]:
    """The job of a response, and what is kept of it. Raises RequestError 404."""
    job = response.removeprefix(PREFIX)
    kept = await kept_response(gateway.bus, job) if response.startswith(PREFIX) else None
    if kept is None or not is_visible(kept.tenant):
        message = f"there is no response {response!r}, or it is no longer kept"
        raise RequestError(404, message, field=field, code="response_not_found")
    return job, kept


def _shown(job: str, kept: KeptResponse, found: JobAnswer) -> ResponseAnswer:
    created_at = found.created_at
    if isinstance(found.result, TextOutput):
        return completed_answer(kept.asked, job, created_at, found.result)
    match found.status:
        case "queued" | "assigned":
            return answer_of(kept.asked, job, created_at, "queued")
        case "cancelled":
            return answer_of(kept.asked, job, created_at, "cancelled")
        case "failed" | "expired" | "completed":
            said = found.error or {}
            error = failure_of(said.get("code") or said.get("kind"), said.get("message", "the job has failed"))
            return answer_of(kept.asked, job, created_at, "failed", error=error)
        case _:
            return answer_of(kept.asked, job, created_at, "in_progress")


@get(
    *openai_paths("/responses/{response}"),
    summary="A response as it is now",
    answers=ResponseAnswer,
    dialect="openai",
)
async def show_response(gateway: Gateway, exchange: Exchange) -> None:
    job, kept = await _kept(gateway, exchange.parameter("response"))
    await exchange.answer(_shown(job, kept, await present_job(gateway, job)))


@post(
    *openai_paths("/responses/{response}/cancel"),
    summary="Cancel a response of the background",
    answers=ResponseAnswer,
    dialect="openai",
)
async def cancel_response(gateway: Gateway, exchange: Exchange) -> None:
    job, kept = await _kept(gateway, exchange.parameter("response"))
    found = await present_job(gateway, job)
    if found.finished_at is None:
        await cancel(gateway, job)
        found = await present_job(gateway, job)
    await exchange.answer(_shown(job, kept, found))


@delete(
    *openai_paths("/responses/{response}"),
    summary="Forget a response",
    answers=ResponseDeleted,
    dialect="openai",
)
async def delete_response(gateway: Gateway, exchange: Exchange) -> None:
    job, _ = await _kept(gateway, exchange.parameter("response"))
    await forget(gateway.bus, job)
    await exchange.answer(ResponseDeleted(response_id(job)))


@get(
    *openai_paths("/responses/{response}/input_items"),
    summary="What a response was given",
    answers=InputItems,
    dialect="openai",
)
async def response_items(gateway: Gateway, exchange: Exchange) -> None:
    job, kept = await _kept(gateway, exchange.parameter("response"))
    items = tuple({"id": f"item_{job}_{index}"} | item for index, item in enumerate(items_of(kept.asked)))
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    await exchange.answer(InputItems(items, first, last))


ROUTES = [respond, show_response, cancel_response, delete_response, response_items]
