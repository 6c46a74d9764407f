"""Chat and completions, whole and streamed, as OpenAI's API reference describes them."""

from stoker.schemas.fields import CHAT, COMPLETIONS
from stoker.schemas.openai import ChatCompletion, ChatCompletionRequest, CompletionRequest, TextCompletion
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.routing import openai_paths, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.text_requests import chat_input, completion_inputs
from stoker.services.gateway.text.openai_text import (
    ChatWriter,
    CompletionWriter,
    chat_answer,
    completion_answer,
)
from stoker.services.gateway.text.runs import answers_headers, stream, text_jobs, text_of, whole


@post_body(
    *openai_paths("/chat/completions"),
    summary="Chat",
    asks=ChatCompletionRequest,
    fields=CHAT,
    answers=ChatCompletion,
    dialect="openai",
)
async def chat(gateway: Gateway, exchange: Exchange, asked: ChatCompletionRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    inputs = [chat_input(asked, model)]
    jobs = text_jobs(gateway, model, adapter, inputs, n=asked.n, seed=asked.seed, wants_events=asked.stream)
    if asked.stream:
        await stream(gateway, exchange, jobs, ChatWriter(jobs[0], asked))
        return
    ends = await whole(gateway, exchange, jobs)
    answer = chat_answer(jobs[0], asked, [text_of(one) for one in ends])
    await exchange.answer(answer, headers=answers_headers(jobs, ends[0]))


@post_body(
    *openai_paths("/completions"),
    summary="Continue a text",
    asks=CompletionRequest,
    fields=COMPLETIONS,
    answers=TextCompletion,
    dialect="openai",
)
async def complete(gateway: Gateway, exchange: Exchange, asked: CompletionRequest) -> None:
    model, adapter = split_adapter(asked.model, gateway.models)
    inputs = completion_inputs(asked, model)
    jobs = text_jobs(gateway, model, adapter, inputs, n=asked.n, seed=asked.seed, wants_events=asked.stream)
    if asked.stream:
        await stream(gateway, exchange, jobs, CompletionWriter(jobs[0], asked))
        return
    ends = await whole(gateway, exchange, jobs)
    answer = completion_answer(jobs[0], asked, [text_of(one) for one in ends])
    await exchange.answer(answer, headers=answers_headers(jobs, ends[0]))


ROUTES = [chat, complete]
