"""Record what a running system is asked, as a trace for `stoker bench --trace` and locust's Replay.

    python -m bench.load.record --nats nats://127.0.0.1:4222 --seconds 60 > trace.jsonl

Listens to the subjects of accepted jobs; that takes a NATS user who may (the operator of
deploy/nats/nats.conf). Prompts are recorded as they are: keep the file as you would keep them.
"""

import argparse
import asyncio
import sys
from typing import Any

import msgspec
import nats
from nats.aio.msg import Msg

from stoker.bench.traces import Ask
from stoker.schemas import wire
from stoker.schemas.jobs import ChatInput, CompletionInput, ImageInput, Job
from stoker.schemas.openai import TextPart

DEFAULT_TOKENS = 32


def ask_of(job: Job, began_at: float) -> Ask | None:
    """The request that a job came from; None for what a trace cannot say (embeddings, functions)."""
    at = round(max(job.created_at - began_at, 0.0), 4)
    match job.input:
        case ChatInput():
            tokens = job.input.max_tokens or DEFAULT_TOKENS
            return Ask(at, job.model, _text(job.input.messages[-1].content), tokens)
        case CompletionInput():
            return Ask(at, job.model, job.input.prompt, job.input.max_tokens or DEFAULT_TOKENS)
        case ImageInput():
            return Ask(at, job.model, job.input.prompt)
        case _:
            return None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.text for part in content or () if isinstance(part, TextPart))


async def record(url: str, user: str, password: str, seconds: float) -> None:
    """Print what is asked, for so many seconds; times count from the first request."""
    first_at = 0.0

    async def heard(message: Msg) -> None:
        nonlocal first_at
        job = wire.decode(Job, message.data)
        first_at = first_at or job.created_at
        if (ask := ask_of(job, first_at)) is not None:
            sys.stdout.write(msgspec.json.encode(ask).decode() + "\n")

    client = await nats.connect(url, user=user or None, password=password or None)
    await client.subscribe("stoker.jobs.*", cb=heard)
    await asyncio.sleep(seconds)
    await client.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nats", default="nats://127.0.0.1:4222")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    asyncio.run(record(given.nats, given.user, given.password, given.seconds))
