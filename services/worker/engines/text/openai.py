"""Servers of others that speak OpenAI's API, behind Stoker: hosted models, and servers of vLLM, llama.cpp or
SGLang that run already. `url` is their base URL, as of OpenAI's clients (`https://…/v1`).

Before the first word a request that meets 429, 5xx or a broken connection is sent again, `retries` times, with
doubling pauses or as the server's Retry-After says; then the job is tried on other workers. A stream that
breaks in the middle goes on only where the server can continue a message (`continues: vllm`); elsewhere the
job fails: an answer that is made anew would not fit what was sent.
"""

import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec

from stoker.schemas.engine_options import OpenAI
from stoker.schemas.job_events import TextOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, RerankInput
from stoker.schemas.openai import template_of_effort
from stoker.schemas.workers import CapabilityCard, EngineCapability
from stoker.services.process.http_clients import client as client_of
from stoker.services.worker.engines.base import (
    Cancellation,
    Emitter,
    EngineError,
    ModelFiles,
    Request,
    RunOutput,
)
from stoker.services.worker.engines.text.checking import checked
from stoker.services.worker.engines.text.generation import Answer, chat_body, completion_body
from stoker.services.worker.engines.text.http_stream import Refused, Server, unless_cancelled
from stoker.services.worker.engines.text.openai_dialect import answer_whole, embed, generate, rerank

CHECK_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""Statuses with which a server says: not now."""
KEY_REFUSED = frozenset({401, 403})


def _address(path: Path) -> str:
    """The URL that a path stands for: paths have one slash where URLs have two."""
    scheme, _, rest = str(path).partition(":/")
    return f"{scheme}://{rest}"


class _Upstream:
    """One model of a server. options: as configured."""

    def __init__(self, files: ModelFiles) -> None:
        self.options = msgspec.convert(files.options, OpenAI, strict=False)
        self.model = self.options.model or files.model
        headers = dict(self.options.headers)
        if self.options.api_key_env:
            key = files.env.get(self.options.api_key_env) or os.environ.get(self.options.api_key_env, "")
            if not key:
                raise EngineError(
                    f"the variable {self.options.api_key_env} (option api_key_env) is not set on this worker",
                    "load_failed",
                )
            headers["authorization"] = f"Bearer {key}"
        self.url = _address(files.path)
        self.server = Server(self.url, f"the server at {self.url}", headers)

    def check(self) -> None:
        """Raises EngineError where the server is not there, or refuses the key."""
        try:
            with client_of(self.url, timeout=CHECK_TIMEOUT_S) as client:
                status = client.get(f"{self.url}/models", headers=dict(self.server.headers)).status_code
        except httpx.HTTPError as error:
            raise EngineError(
                f"nothing answers at {self.url}, where the model {self.model} is ({error})", "load_failed"
            ) from error
        if status in KEY_REFUSED:
            raise EngineError(f"the server at {self.url} refuses the key ({status})", "load_failed")

    def body(self, body: Answer) -> Answer:
        """A body as this server wants it: its own names ("": left out), and what is sent with every request."""
        names = self.options.names
        return (
            {names.get(name, name): value for name, value in body.items() if names.get(name, name)}
            | self.options.body
            | {"model": self.model}
        )

    def chat(self, asked: ChatInput, request: Request) -> Answer:
        """A body of /chat/completions. An effort is told as OpenAI's API has it, and not for a template: hosted
        models have none to give things to. vLLM is told it as ever (`continues: vllm`).
        """
        if asked.effort and not self.options.continues:
            of_effort = template_of_effort(asked.effort).items()
            template = {name: value for name, value in asked.template.items() if (name, value) not in of_effort}
            made = chat_body(msgspec.structs.replace(asked, template=template), request)
            return self.body(made | {"reasoning_effort": asked.effort})
        return self.body(chat_body(asked, request))

    async def patiently(
        self, work: Callable[[], Awaitable[RunOutput]], has_begun: Callable[[], bool]
    ) -> RunOutput:
        """The work, again where the server says "not now", as long as nothing was sent. Raises EngineError."""
        pause_s = FIRST_PAUSE_S
        for left in range(self.options.retries, -1, -1):
            try:
                return await work()
            except EngineError as error:
                if not self._is_for_another_try(error) or has_begun():
                    raise self._told(error, has_begun()) from error
                if not left:
                    raise EngineError(str(error), "retryable") from error
                after_s = error.retry_after_s if isinstance(error, Refused) else None
                wait_s = pause_s * random.uniform(0.5, 1.0) if after_s is None else after_s
                await anyio.sleep(min(wait_s, LONGEST_PAUSE_S))
                pause_s *= 2
        raise AssertionError("a try is the last one")

    @staticmethod
    def _is_for_another_try(error: EngineError) -> bool:
        """A prompt that is too long stays so, whatever the status."""
        if isinstance(error, Refused):
            return error.status in AGAIN and error.kind != "validation"
        return error.kind == "retryable"

    def _told(self, error: EngineError, has_begun: bool) -> EngineError:
        """The error as the client is told it."""
        if isinstance(error, Refused) and error.status in KEY_REFUSED:
            return EngineError(f"the server at {self.url} refuses the key of this worker", "resource")
        if has_begun and not self.options.continues and error.kind == "retryable":
            return EngineError(f"{error}; the answer broke off, and this server cannot go on with it", "fatal")
        return error


class _Watched:
    """Passes on what is made, and knows whether anything was."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self.has_begun = False

    def __getattr__(self, name: str) -> Any:
        self.has_begun = True
        return getattr(self._emit, name)


class OpenAIEngine:
    """See the file's opening."""

    def __init__(self, capability: EngineCapability) -> None:
        self.capability = capability
        self._upstreams: dict[str, _Upstream] = {}

    def load(self, files: ModelFiles) -> None:
        upstream = _Upstream(files)
        upstream.check()
        self._upstreams[files.model] = upstream

    def unload(self, model: str) -> None:
        upstream = self._upstreams.pop(model, None)
        if upstream is not None:
            upstream.server.close()

    async def close(self) -> None:
        """End every connection: the runner ends."""
        for upstream in self._upstreams.values():
            await upstream.server.aclose()

    def memory_bytes(self, model: str) -> int:
        """Nothing here."""
        return 0

    def card(self, model: str) -> CapabilityCard:
        return CapabilityCard(slots=self.capability.slots)

    async def run(self, model: str, request: Request, emit: Emitter, cancelled: Cancellation) -> RunOutput:
        upstream = self._upstreams[model]
        watched = _Watched(emit)
        if request.sent_text and not upstream.options.continues:
            raise EngineError("the answer broke off, and the server behind it cannot go on with it", "fatal")

        async def once() -> RunOutput:
            return await self._once(upstream, request, watched)

        work = upstream.patiently(once, lambda: watched.has_begun)
        return await unless_cancelled(work, cancelled)

    @staticmethod
    async def _once(upstream: _Upstream, request: Request, emit: Any) -> RunOutput:
        make = generate if request.wants_events else answer_whole
        match request.input:
            case ChatInput():

                async def chat(request: Request, emit: Emitter) -> TextOutput:
                    assert isinstance(request.input, ChatInput)
                    body = upstream.chat(request.input, request)
                    if request.sent_text:
                        body |= {"continue_final_message": True, "add_generation_prompt": False}
                    return await make(upstream.server, "/chat/completions", body, request, emit)

                return await checked(request, emit, chat)
            case CompletionInput():
                body = upstream.body(completion_body(request.input, request))
                return await make(upstream.server, "/completions", body, request, emit)
            case EmbeddingInput():
                return await embed(upstream.server, "/embeddings", upstream.model, request.input)
            case RerankInput():
                return await rerank(upstream.server, "/rerank", upstream.model, request.input)
            case _:
                raise EngineError(
                    "a server of OpenAI's API makes text, embeddings and ranks only", "validation"
                )


def create(capability: EngineCapability) -> OpenAIEngine:
    return OpenAIEngine(capability)
