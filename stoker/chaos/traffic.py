"""Clients of every kind, who do what clients do, and write down what they were told.

Each client does one thing after the other, by a chance of its own: asks and waits, streams an answer, streams a
job's events and is cut off and goes on at another gateway, submits a job and looks after it, repeats a request
with the same key elsewhere, cancels, leaves. What is to be tried again (no connection, 503 with Retry-After,
429) is tried again; that is no refusal, but it counts as waiting.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent

from stoker.chaos.ledger import End, Job, Ledger
from stoker.services.process.http_clients import async_client
from stoker.services.process.tasks import together
from stoker.sse import ENDS, EventReader

RETRY_S = 0.1
PATIENCE_S = 90.0
"""A client that was told nothing final for so long gives up: the job has no end then."""
POLL_S = 0.1
TIMEOUT = httpx.Timeout(60.0, connect=2.0)
MAX_EVENTS_BEFORE_CUT = 8
BROKEN = (httpx.TransportError,)
STREAM_END = "[DONE]"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request whose answer is known: text was its answer in quiet. is_chat: a message, else a beginning."""

    model: str
    prompt: str
    max_tokens: int
    seed: int
    is_chat: bool = False
    text: str = ""

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def job(self) -> dict[str, Any]:
        said: dict[str, Any] = {"prompt": self.prompt}
        if self.is_chat:
            said = {"messages": [{"role": "user", "content": self.prompt}]}
        asked = {"max_tokens": self.max_tokens, "seed": self.seed, "temperature": 0.0}
        return {"model": self.model, "input": said | asked}

    def body(self, *, is_stream: bool) -> dict[str, Any]:
        """Of a request to `path`."""
        return {**self.job()["input"], "model": self.model, "stream": is_stream}

    def text_of(self, answer: dict[str, Any]) -> str:
        """The text in an answer of `path`."""
        choice = answer["choices"][0]
        return str(choice["message"]["content"] if self.is_chat else choice["text"])

    def piece_of(self, chunk: dict[str, Any]) -> str:
        """The text in an event of a stream of `path`."""
        choice = chunk["choices"][0]
        return str((choice["delta"].get("content") if self.is_chat else choice["text"]) or "")


class GaveUp(Exception):
    """A client has waited for too long."""


@dataclass(slots=True)
class Traffic:
    """gateways: URLs. began: of the run, on the loop's clock. jobs: how many are started; 0: no limit."""

    gateways: list[str]
    prompts: list[Prompt]
    ledger: Ledger
    seed: int
    began: float
    jobs: int = 0
    pace_s: float = 0.0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    _count: int = 0

    async def run(self, at_once: int) -> None:
        """So many clients, until `is_over` is set or the jobs are all started."""

        def client(number: int) -> Callable[[], Any]:
            return lambda: self._client(random.Random(self.seed * 1000 + number))

        await together(client(number) for number in range(at_once))

    async def _client(self, chance: random.Random) -> None:
        ways = (
            self.ask, self.stream, self.watch, self.watch, self.poll, self.repeat, self.cancel, self.leave,
        )  # fmt: skip
        async with async_client(self.gateways[0], timeout=TIMEOUT) as http:
            while not self.is_over.is_set() and not (self.jobs and self._count >= self.jobs):
                self._count += 1
                name = f"chaos-{self.seed}-{self._count}"
                with contextlib.suppress(GaveUp):
                    await chance.choice(ways)(http, chance, name)
                await asyncio.sleep(self.pace_s)

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    # Ways to ask ----------------------------------------------------------------------------------

    async def ask(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Ask and wait for the answer."""
        prompt = chance.choice(self.prompts)
        job = self.ledger.job(name, prompt.text)

        async def once() -> httpx.Response:
            return await http.post(
                chance.choice(self.gateways) + prompt.path, json=prompt.body(is_stream=False)
            )

        answer = await self._answer(once, "completion")
        if answer is not None:
            job.accepted_at = self.now()
            job.ends.append(End(self.now(), "", "completed", prompt.text_of(answer.json())))

    async def stream(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Stream an answer to its end; again from the beginning where the connection or the stream broke."""
        prompt = chance.choice(self.prompts)
        job = self.ledger.job(name, prompt.text)
        began = self.now()
        self.ledger.requests += 1
        text = None
        while text is None:
            with contextlib.suppress(*BROKEN):
                text = await self._streamed(http, chance.choice(self.gateways), prompt, f"stream {name}")
            if self.now() - began > PATIENCE_S:
                raise GaveUp
            if text is None:
                await asyncio.sleep(RETRY_S)
        job.accepted_at = self.now()
        job.ends.append(End(self.now(), "", "completed", text))

    async def _streamed(self, http: httpx.AsyncClient, gateway: str, prompt: Prompt, what: str) -> str | None:
        """The text of a stream; None where it said that it is to be tried again. Raises GaveUp if refused.

        One that ends without saying so has less text than in quiet, and counts as wrong.
        """
        text, heard_at = "", self.now()
        async with http.stream("POST", gateway + prompt.path, json=prompt.body(is_stream=True)) as answer:
            if answer.status_code != 200:
                await answer.aread()
                if not self._judge_status(answer, what):
                    raise GaveUp
                return None
            async for sent in EventSource(answer).aiter_sse():
                self.ledger.waited(heard_at, self.now(), what)
                heard_at = self.now()
                if sent.data == STREAM_END:
                    break
                if sent.event == "error":
                    self._judge_error(sent, what)
                    return None
                text += prompt.piece_of(sent.json())
        return text

    def _judge_error(self, sent: ServerSentEvent, what: str) -> None:
        """An error within a stream: one that is the request's own fault is a refusal. Raises GaveUp then."""
        error = sent.json()["error"]
        if error["type"] == "invalid_request_error":
            self.ledger.refusals.append((self.now(), f"{what}: {error}"))
            raise GaveUp

    async def poll(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Submit a job, and look at it at any gateway until it has ended."""
        job, _ = await self._submit(http, chance, name, chance.choice(self.gateways))
        await self._to_its_end(http, chance, job)

    async def repeat(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Submit, and submit the same again elsewhere, at once or when it has ended."""
        first, second = (
            (chance.sample(self.gateways, 2) * 2)[:2] if len(self.gateways) > 1 else self.gateways * 2
        )
        job, prompt = await self._submit(http, chance, name, first)
        if chance.random() < 0.5:
            await self._to_its_end(http, chance, job)
        await self._submit(http, chance, name, second, prompt)
        await self._to_its_end(http, chance, job)

    async def watch(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Stream a job's events; the connection is cut now and then, and another gateway goes on."""
        job, _ = await self._submit(http, chance, name, chance.choice(self.gateways))
        reader = EventReader()
        text, ends, heard_at = "", 0, self.now()
        while reader.end is None:
            gateway = chance.choice(self.gateways)
            most = chance.randint(1, MAX_EVENTS_BEFORE_CUT) if chance.random() < 0.6 else 10**9
            with contextlib.suppress(*BROKEN):
                async for event in self._events(http, gateway, name, reader, most):
                    self.ledger.waited(heard_at, self.now(), f"events of {name}")
                    heard_at = self.now()
                    text += event.data["text"] if event.name == "delta" else ""
                    ends += event.name in ENDS
            if self.now() - heard_at > PATIENCE_S:
                self.ledger.waited(heard_at, self.now(), f"events of {name}")
                raise GaveUp
            if reader.end is None:
                await asyncio.sleep(RETRY_S)
        job.ends_in_a_stream = ends
        job.ends.append(_end_of(reader.end, self.now(), "stream"))
        if reader.end["status"] == "completed":
            job.streams.append(text)
        await self._to_its_end(http, chance, job)

    async def _events(
        self, http: httpx.AsyncClient, gateway: str, name: str, reader: EventReader, most: int
    ) -> AsyncIterator[Any]:
        url = f"{gateway}/v1/jobs/{name}/events"
        async with http.stream("GET", url, headers=reader.resume()) as answer:
            if answer.status_code != 200:
                await answer.aread()
                self._judge_status(answer, f"events of {name}")
                return
            count = 0
            async for event in reader.aread(answer):
                yield event
                count += 1
                if count >= most:
                    return

    async def cancel(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Submit a job and cancel it; it may have ended by then."""
        job, _ = await self._submit(http, chance, name, chance.choice(self.gateways))
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        job.is_cancelled = True

        async def once() -> httpx.Response:
            return await http.delete(f"{chance.choice(self.gateways)}/v1/jobs/{name}")

        await self._answer(once, f"cancel of {name}", also=(409,))
        await self._to_its_end(http, chance, job)

    async def leave(self, http: httpx.AsyncClient, chance: random.Random, name: str) -> None:
        """Begin to stream an answer, and go."""
        prompt = chance.choice(self.prompts)
        url = chance.choice(self.gateways) + prompt.path
        with contextlib.suppress(*BROKEN):
            async with http.stream("POST", url, json=prompt.body(is_stream=True)) as answer:
                async for _ in answer.aiter_lines():
                    return

    # Steps ----------------------------------------------------------------------------------------

    async def _submit(
        self,
        http: httpx.AsyncClient,
        chance: random.Random,
        name: str,
        gateway: str,
        prompt: Prompt | None = None,
    ) -> tuple[Job, Prompt]:
        chosen = prompt or chance.choice(self.prompts)
        job = self.ledger.job(name, chosen.text)

        async def once() -> httpx.Response:
            return await http.put(f"{gateway}/v1/jobs/{name}", json=chosen.job())

        answer = await self._answer(once, f"submit of {name}")
        if answer is None:
            raise GaveUp
        if job.accepted_at is None:
            job.accepted_at = self.now()
        return job, chosen

    async def _to_its_end(self, http: httpx.AsyncClient, chance: random.Random, job: Job) -> None:
        await self.look_until_ended(http, chance.choice(self.gateways), job, self.now() + PATIENCE_S)

    async def look_until_ended(self, http: httpx.AsyncClient, gateway: str, job: Job, deadline: float) -> None:
        """Look at a job again and again; until `deadline`, seconds since the run began."""
        while self.now() < deadline:
            if await self.look(http, gateway, job):
                return
            await asyncio.sleep(POLL_S)

    async def look(self, http: httpx.AsyncClient, gateway: str, job: Job) -> bool:
        """Look at a job; whether it has ended."""

        async def once() -> httpx.Response:
            return await http.get(f"{gateway}/v1/jobs/{job.id}")

        answer = await self._answer(once, f"look at {job.id}", also=(404,))
        if answer is None:
            return False
        if answer.status_code == 404:
            job.missing.append((self.now(), gateway))
            return True
        if answer.json()["status"] not in ENDS:
            return False
        job.ends.append(_end_of(answer.json(), self.now(), gateway))
        return True

    async def _answer(
        self, once: Callable[[], Awaitable[httpx.Response]], what: str, also: tuple[int, ...] = ()
    ) -> httpx.Response | None:
        """The answer, after as many tries as it takes; None where it was refused. Raises GaveUp."""
        began = self.now()
        self.ledger.requests += 1
        try:
            while True:
                with contextlib.suppress(*BROKEN):
                    answer = await once()
                    if answer.status_code < 400 or answer.status_code in also:
                        return answer
                    if not self._judge_status(answer, what):
                        return None
                if self.now() - began > PATIENCE_S:
                    raise GaveUp
                await asyncio.sleep(RETRY_S)
        finally:
            self.ledger.waited(began, self.now(), what)

    def _judge_status(self, answer: httpx.Response, what: str) -> bool:
        """Whether an error is to be tried again; others are noted as refusals."""
        if answer.status_code == 429 or (answer.status_code == 503 and "retry-after" in answer.headers):
            return True
        self.ledger.refusals.append((self.now(), f"{what}: {answer.status_code} {answer.text[:300]}"))
        return False


def _end_of(said: dict[str, Any], at: float, gateway: str) -> End:
    result, error = said.get("result") or {}, said.get("error") or {}
    text = result.get("text") if isinstance(result, dict) else None
    return End(at, gateway, said["status"], text, str(error.get("message", "")))


async def learn(gateway: str, prompts: list[Prompt]) -> list[Prompt]:
    """The same prompts with their answers, asked one after the other in quiet. Raises httpx.HTTPError."""
    known: list[Prompt] = []
    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        for one in prompts:
            answer = await http.post(gateway + one.path, json=one.body(is_stream=False))
            answer.raise_for_status()
            known.append(replace(one, text=one.text_of(answer.json())))
    return known
