"""Texts and vectors that lie as blobs: whole for every client, however it asks."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.children import Returned
from stoker.schemas.job_events import Completed, EmbeddingOutput
from stoker.schemas.jobs import CompletionInput, EmbeddingInput, Job
from stoker.services.gateway.calls import Calls
from stoker.services.records.blobs import read_blob
from stoker.services.records.outputs import apart
from tests.contract.conftest import Connect
from tests.fixtures.ends import end
from tests.fixtures.gateway_app import Served, completed, served, view

TEXT = "a very long text"
VECTORS = ((0.5, 0.25), (1.0, 2.0))
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
EMBEDS = Model("e", ("TextEmbedding",), (Spec("default", "synthetic", ""),))


@asynccontextmanager
async def large_answers(connected: Connect) -> AsyncIterator[Served]:
    """Its backend ends each job with an output that lies as a blob, and streams nothing before."""
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as found:

        async def answer(job: Job) -> None:
            whole = completed(job, TEXT)
            assert isinstance(whole, Completed)
            if isinstance(job.input, EmbeddingInput):
                whole = msgspec.structs.replace(whole, output=EmbeddingOutput(VECTORS, 3))
            event = await apart(other, whole)
            assert event is not None and await apart(other, event) is None
            found.backend.views[job.id] = view(job.id, "completed")
            await end(other, event)

        found.gateway.model_changed("e", EMBEDS)
        found.backend.on_job = answer
        yield found


async def test_answers_are_whole_in_every_dialect(connected: Connect) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/chat/completions", CHAT | {"n": 2}),
        ("/v1/completions", {"model": "m", "prompt": "x"}),
        ("/v1/responses", {"model": "m", "input": "x"}),
        ("/v1/messages", CHAT | {"max_tokens": 9}),
        ("/api/chat", CHAT),
    ]
    async with large_answers(connected) as stand:
        for path, body in asked:
            answer = await stand.ask("POST", path, body)
            assert (answer.status, TEXT.encode() in answer.body) == (200, True), answer.body[:300]
            assert b"blob:" not in answer.body
        answer = await stand.ask("POST", "/v1/embeddings", {"model": "e", "input": ["a", "b"]})
        assert [tuple(one["embedding"]) for one in answer.json()["data"]] == list(VECTORS)


async def test_jobs_their_events_and_background_responses_have_the_whole(connected: Connect) -> None:
    async with large_answers(connected) as stand:
        job = {"model": "m", "input": {"prompt": "x"}}
        done = (await stand.ask("POST", "/v1/jobs", job, prefer="wait=10")).json()
        assert (done["status"], done["result"]["text"]) == ("completed", TEXT)
        assert "blob" not in done["result"]
        read = (await stand.ask("GET", done["urls"]["self"])).json()
        assert read["result"] == done["result"]
        events = (await stand.ask("GET", done["urls"]["events"])).body.decode()
        [delta] = [one.split("data: ")[1] for one in events.split("\n\n") if "event: delta" in one]
        assert json.loads(delta)["text"] == TEXT
        asked = {"model": "m", "input": "x", "background": True}
        response = (await stand.ask("POST", "/v1/responses", asked)).json()
        while response["status"] in ("queued", "in_progress"):
            response = (await stand.ask("GET", f"/v1/responses/{response['id']}")).json()
        assert response["output"][0]["content"][0]["text"] == TEXT


async def test_an_answer_to_a_call_that_fits_no_message_goes_as_a_blob(connected: Connect) -> None:
    async with large_answers(connected) as stand:
        calls, bus = Calls(stand.gateway), stand.gateway.bus
        for text in (TEXT, "x" * bus.max_payload):
            job = Job("j", "m", CompletionInput("x"), "gw", 1.0)
            answer = await calls._how_it_ended(completed(job, text))
            assert isinstance(answer, Returned) and bool(answer.blob) == (text != TEXT)
            content = await read_blob(bus, answer.blob) if answer.blob else bytes(answer.result)
            assert json.loads(content)["text"] == text
