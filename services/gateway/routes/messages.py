"""Anthropic's Messages API."""

from stoker.schemas.anthropic import AnthropicAnswer, CountTokensRequest, MessagesRequest, TokensCounted
from stoker.schemas.fields import MESSAGES
from stoker.schemas.jobs import TokensInput
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.routing import post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.own_jobs import job_headers
from stoker.services.gateway.jobs.request_rules import in_their_words, need, split_adapter
from stoker.services.gateway.jobs.text_requests import chat_input
from stoker.services.gateway.routes.tokens import run_value
from stoker.services.gateway.text.anthropic_text import MessageWriter, answer_of, chat_of, messages_of, tools_of
from stoker.services.gateway.text.runs import stream, text_jobs, text_of, whole


@post_body(
    "/v1/messages",
    summary="Answer (Anthropic)",
    asks=MessagesRequest,
    fields=MESSAGES,
    answers=AnthropicAnswer,
    dialect="anthropic",
)
async def message(gateway: Gateway, exchange: Exchange, asked: MessagesRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    with in_their_words({"stop": "stop_sequences"}):
        wanted = chat_input(chat_of(asked), model)
        jobs = text_jobs(gateway, model, adapter, [wanted], wants_events=asked.stream)
    if asked.stream:
        await stream(gateway, exchange, jobs, MessageWriter(jobs[0], asked))
        return
    [completed] = await whole(gateway, exchange, jobs)
    await exchange.answer(
        answer_of(jobs[0], asked, text_of(completed)), headers=job_headers(jobs[0], completed)
    )


@post_body(
    "/v1/messages/count_tokens",
    summary="Count the tokens of a prompt (Anthropic)",
    asks=CountTokensRequest,
    answers=TokensCounted,
    dialect="anthropic",
)
async def count_tokens(gateway: Gateway, exchange: Exchange, asked: CountTokensRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    need(model, "TextGeneration")
    job = gateway.submission.make_job(
        model, adapter, TokensInput(messages=messages_of(asked), tools=tools_of(asked))
    )
    value, headers = await run_value(gateway, exchange, job)
    await exchange.answer(TokensCounted(len(value["tokens"])), headers=headers)


ROUTES = [message, count_tokens]
