"""The Responses API: a chat whose requests are kept, so that the next one can go on from it."""

from typing import Literal

import msgspec

from stoker.schemas.fields import RESPONSES
from stoker.schemas.job_events import TextOutput
from stoker.schemas.openai import ChatMessage
from stoker.schemas.responses import InputItems, KeptResponse, ResponseAnswer, ResponseDeleted, ResponsesRequest
from stoker.services.gateway.edge.access import is_visible, owner
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import delete, get, openai_paths, post, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import admitted
from stoker.services.gateway.jobs.answers import JobAnswer
from stoker.services.gateway.jobs.cancelling import cancel
from stoker.services.gateway.jobs.lookup import find_job, present_job
from stoker.services.gateway.jobs.own_jobs import accept, job_headers
from stoker.services.gateway.jobs.pages import page_of
from stoker.services.gateway.jobs.request_rules import in_their_words, split_adapter
from stoker.services.gateway.jobs.text_requests import chat_input
from stoker.services.gateway.text.responses_again import response_events
from stoker.services.gateway.text.responses_input import NAMES, chat_of, conversation, items_of, unread_parts
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

MAX_ITEMS = 100


class ResponseQuery(msgspec.Struct, frozen=True):
    """starting_after: the number of the last event that the client has."""

    stream: bool = False
    starting_after: int | None = None


class ItemsQuery(msgspec.Struct, frozen=True):
    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str = ""


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
    exchange.ignore(unread_parts(asked))
    wants_events = asked.stream or asked.background
    with in_their_words(NAMES):
        wanted = chat_input(chat_of(asked, before), model)
        jobs = text_jobs(gateway, model, adapter, [wanted], seed=asked.seed, wants_events=wants_events)
    if asked.store or asked.background:  # what is kept of a response is not that of a request that is refused
        jobs = tuple(await admitted(gateway, jobs, exchange.body_bytes))
    job = jobs[0]
    if asked.store:
        kept = KeptResponse(asked, owner(), conversation(asked, before))
        await keep(gateway.bus, job.id, kept)
    if asked.background:
        await accept(gateway, job)
        if asked.stream:
            writer = ResponseWriter(asked, job.id, job.created_at)
            await exchange.stream(
                gateway.streams_open, response_events(gateway, job.id, writer), job_headers(job)
            )
        else:
            answer = answer_of(asked, job.id, job.created_at, "queued")
            await exchange.answer(answer, headers=job_headers(job))
    elif asked.stream:
        await stream(gateway, exchange, jobs, ResponseWriter(asked, job.id, job.created_at))
    else:
        with in_their_words(NAMES):
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
    summary="A response as it is now, or streamed from any of its events on",
    query=ResponseQuery,
    answers=ResponseAnswer,
    dialect="openai",
)
async def show_response(gateway: Gateway, exchange: Exchange) -> None:
    asked = exchange.query(ResponseQuery)
    job, kept = await _kept(gateway, exchange.parameter("response"))
    after = -1 if asked.starting_after is None else asked.starting_after
    if asked.starting_after is not None and not (after >= 0 and asked.stream and kept.asked.background):
        message = "starting_after is 0 or more, with stream, of a response that was made with background: true"
        raise RequestError(400, message, field="starting_after", code="invalid_value")
    found = await present_job(gateway, job)
    if asked.stream:
        writer = ResponseWriter(kept.asked, job, found.created_at, after=after)
        await exchange.stream(gateway.streams_open, response_events(gateway, job, writer))
    else:
        await exchange.answer(_shown(job, kept, found))


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
    query=ItemsQuery,
    answers=InputItems,
    dialect="openai",
)
async def response_items(gateway: Gateway, exchange: Exchange) -> None:
    asked = exchange.query(ItemsQuery)
    job, kept = await _kept(gateway, exchange.parameter("response"))
    items = [{"id": f"item_{job}_{index}"} | item for index, item in enumerate(items_of(kept.asked))]
    if asked.order == "desc":
        items.reverse()
    page, has_more = page_of(items, lambda item: str(item["id"]), asked.after, asked.limit, MAX_ITEMS)
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    await exchange.answer(InputItems(tuple(page), first, last, has_more))


ROUTES = [respond, show_response, cancel_response, delete_response, response_items]
