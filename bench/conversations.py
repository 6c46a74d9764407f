"""Conversations that go on, on two replicas: how much of their prompts is worked out again.

python -m bench.conversations

Each turn repeats all that was said. What the engine has kept of it is `cached_tokens` of its usage; a turn
that comes to the other replica finds nothing there.
"""

import asyncio
from typing import Any

import aiohttp

from bench.arguments import nothing
from bench.system import running
from tests.fixtures.smollm2 import smollm2

CONVERSATIONS, TURNS, TOKENS = 6, 5, 24
CONFIG = """\
apiVersion: stoker/v1
kind: Model
metadata: {{name: text}}
spec:
  url: "file://{path}"
  engine: llamacpp
  options: {{n_ctx: 2048}}
  loadBalancing: {{strategy: {strategy}}}
"""
WORKERS = """\
workers:
  - {count: 2, memory: 4GB, engines: [llamacpp]}
"""
OPENING = "You are the guide of a museum with many rooms. " * 12


async def _conversation(session: aiohttp.ClientSession, url: str, number: int) -> tuple[int, int]:
    """Tokens of all its prompts but the first, and how many of them were cached."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": OPENING}]
    prompt = cached = 0
    for turn in range(TURNS):
        said = f"I am visitor {number}. " if not turn else ""
        messages.append({"role": "user", "content": f"{said}What is in room {turn}?"})
        body = {"model": "text", "messages": messages, "max_tokens": TOKENS, "temperature": 0}
        async with session.post(url, json=body) as answer:
            found = await answer.json()
        messages.append(found["choices"][0]["message"])
        if turn:
            prompt += found["usage"]["prompt_tokens"]
            cached += found["usage"]["prompt_tokens_details"]["cached_tokens"]
    return prompt, cached


async def _share(strategy: str) -> float:
    with running(CONFIG.format(path=smollm2(), strategy=strategy), WORKERS) as system:
        url = f"http://127.0.0.1:{system.port}/v1/chat/completions"
        async with aiohttp.ClientSession() as session:
            warm = {"model": "text", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
            await asyncio.gather(*(session.post(url, json=warm) for _ in range(16)))
            found = await asyncio.gather(
                *(_conversation(session, url, number) for number in range(CONVERSATIONS))
            )
    return sum(cached for _, cached in found) / sum(prompt for prompt, _ in found)


async def main() -> list[str]:
    rows = ["| loadBalancing | prompt tokens that were cached |", "|---|---|"]
    for strategy in ("LeastLoad", "PrefixHash"):
        rows.append(f"| {strategy} | {await _share(strategy):.1%} |")
    return rows


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(asyncio.run(main())))
