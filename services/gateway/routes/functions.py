"""Users' functions: list and look, call and wait, stream, or submit as a job."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.catalog import Function, Model
from stoker.schemas.job_events import Completed, Delta, Progress, Queued, Terminal, ValueOutput
from stoker.schemas.jobs import FunctionInput, Job, models_together
from stoker.services.gateway.edge.access import may_use
from stoker.services.gateway.edge.decoding import decode
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError, problem
from stoker.services.gateway.edge.routing import get, post
from stoker.services.gateway.edge.sse import EVENT_STREAM, sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import admitted
from stoker.services.gateway.jobs.answers import from_result, urls_of
from stoker.services.gateway.jobs.function_calls import function_input, placed_by
from stoker.services.gateway.jobs.outcomes import completed_or_raise, observe_end
from stoker.services.gateway.jobs.own_jobs import Waiting, accept, finished, followed, job_headers
from stoker.services.records.blobs import with_value


class FunctionCard(msgspec.Struct, frozen=True):
    """A function, its JSON Schemas, and the keys of the models that it may be given.

    input_type, output_type: the same as types of Python, for `stoker stubs`.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    streams: bool
    model_keys: tuple[str, ...]
    input_type: dict[str, Any]
    output_type: dict[str, Any]


class FunctionList(msgspec.Struct, frozen=True):
    functions: tuple[FunctionCard, ...]


def _card(model: Model) -> FunctionCard:
    function: Function | None = model.function
    assert function is not None
    return FunctionCard(
        model.name, function.description, function.input_schema, function.output_schema, function.streams,
        function.keys, function.input_type, function.output_type,
    )  # fmt: skip


def _functions(gateway: Gateway) -> dict[str, Model]:
    return {
        name: model
        for name, model in sorted(gateway.models.items())
        if model.function is not None and may_use(name)
    }


def _find(gateway: Gateway, name: str) -> Model:
    """Raises RequestError 404 with the known functions."""
    known = _functions(gateway)
    if name not in known:
        listed = ", ".join(known) or "none is configured"
        raise RequestError(
            404, f"there is no function {name!r}; known are: {listed}", code="function_not_found"
        )
    return known[name]


@get("/v1/functions", summary="Functions and their schemas", answers=FunctionList)
async def functions(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(FunctionList(tuple(_card(model) for model in _functions(gateway).values())))


@get("/v1/functions/{name}", summary="One function", answers=FunctionCard)
async def function_card(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(_card(_find(gateway, exchange.parameter("name"))))


def _job(gateway: Gateway, model: Model, asked: FunctionInput, *, wants_events: bool) -> Job:
    return gateway.submission.make_job(model, "", asked, place_by=placed_by(asked), wants_events=wants_events)


def _headers(job: Job, completed: Completed) -> dict[str, str]:
    return job_headers(job, completed) | {"x-stoker-worker": completed.worker}


async def _events(gateway: Gateway, job: Job) -> AsyncGenerator[bytes]:
    """`delta` with each result of a stream, `progress`, then `completed` or `error`."""
    waiting = Waiting()
    is_begun = False
    rest = ""
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
                case (Progress() as progress, _):
                    is_begun = True
                    yield sse(wire.encode({"step": progress.step, "steps": progress.steps}), "progress")
                case (Delta(text=text), _):
                    is_begun = True
                    *lines, rest = (rest + text).split("\n")
                    for line in lines:
                        yield sse(line.encode(), "delta")
                case (event, _) if isinstance(event, Terminal):
                    observe_end(event)
                    try:
                        completed_or_raise(event, 422 if models_together(job.input) else 503)
                    except RequestError as error:
                        if not is_begun:
                            raise
                        yield sse(wire.encode(problem(error)), "error")
                        return
                    yield sse(wire.encode(from_result(await with_value(gateway.bus, event))), "completed")


@post("/v1/functions/{name}", summary="Call a function: wait, stream, or as a job")
async def call_function(gateway: Gateway, exchange: Exchange) -> None:
    model = _find(gateway, exchange.parameter("name"))
    asked = function_input(decode(dict[str, Any], await exchange.json_body()), model)
    is_streamed = EVENT_STREAM in exchange.header(b"accept")
    is_job = "respond-async" in exchange.header(b"prefer")
    made = _job(gateway, model, asked, wants_events=is_streamed)
    status = 422 if is_job else 503
    [job] = await admitted(gateway, [made], exchange.body_bytes, status, may_name_files=True)
    if is_job:
        await accept(gateway, job)
        accepted = {"id": job.id, "status": "queued", "function": model.name, "urls": urls_of(job.id)}
        await exchange.answer(accepted, 202, {"location": urls_of(job.id).self, **job_headers(job)})
        return
    if is_streamed:
        await exchange.stream(gateway.streams_open, _events(gateway, job), job_headers(job))
        return
    ended, _ = await finished(gateway, exchange, job)
    completed = await with_value(gateway.bus, ended)
    assert isinstance(completed, Completed)
    assert isinstance(completed.output, ValueOutput)
    await exchange.answer(completed.output.value, headers=_headers(job, completed))


ROUTES = [functions, function_card, call_function]
