"""Locust users: chat that streams, images, both mixed (closed loop), and a trace replayed (open loop).

    locust -f bench/load/locustfile.py --host http://127.0.0.1:8000 --users 50 --spawn-rate 10 Chat
    locust -f bench/load/locustfile.py --host http://127.0.0.1:8000 --users 1 --trace trace.jsonl Replay

Name the classes to run: Chat, Images, Mixed, Replay. `stoker bench --save-trace` writes traces, record.py
records them from a running system. Besides each request, locust counts "chat: first token" and
"images: first preview".
"""

import json
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Pool
from locust import HttpUser, constant_pacing, events, task
from locust.argument_parser import LocustArgumentParser

from stoker.bench.traces import PROMPTS, Ask, read

REPLAYED_AT_ONCE = 1000


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--chat-model", default="demo-chat", help="model of Chat and Mixed")
    parser.add_argument("--image-model", default="demo-image", help="model of Images and Mixed")
    parser.add_argument("--max-tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between a user's requests")
    parser.add_argument("--trace", default="", help="file for Replay")


class _User(HttpUser):
    abstract = True
    _asked = 0

    def wait_time(self) -> float:
        return constant_pacing(self.environment.parsed_options.pause)(self)

    def chat(self, ask: Ask) -> None:
        message = {"role": "user", "content": ask.prompt}
        body = {"model": ask.model, "messages": [message], "max_tokens": ask.max_tokens}
        self._stream("/v1/chat/completions", body, "chat", "first token", '"delta":{"content":"')

    def image(self, ask: Ask) -> None:
        body = {"model": ask.model, "prompt": ask.prompt, "partial_images": 1}
        self._stream("/v1/images/generations", body, "images", "first preview", "image_generation.")

    def _stream(self, path: str, body: dict[str, Any], name: str, first: str, mark: str) -> None:
        """Ask and read to the end. An error event, or an end without content, is a failure."""
        began = time.perf_counter()
        first_at = 0.0
        with self.client.post(
            path, json=body | {"stream": True}, name=name, stream=True, catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}: {answer.text[:200]}")
                return
            for line in answer.iter_lines(decode_unicode=True):
                if line == "event: error":
                    answer.failure("an error event")
                    return
                if not first_at and mark in line:
                    first_at = time.perf_counter()
            if not first_at:
                answer.failure("it ended without content")
                return
            answer.request_meta["response_time"] = (time.perf_counter() - began) * 1000
            answer.success()
        self.environment.events.request.fire(
            request_type="SSE", name=f"{name}: {first}", response_time=(first_at - began) * 1000,
            response_length=0, exception=None, context={},
        )  # fmt: skip

    def next_prompt(self, model: str) -> Ask:
        self._asked += 1
        options = self.environment.parsed_options
        return Ask(0.0, model, PROMPTS[self._asked % len(PROMPTS)], options.max_tokens)


class Chat(_User):
    """Closed loop: asks, reads the streamed answer, asks again."""

    @task
    def ask(self) -> None:
        self.chat(self.next_prompt(self.environment.parsed_options.chat_model))


class Images(_User):
    """Closed loop: draws, watching the previews."""

    @task
    def ask(self) -> None:
        self.image(self.next_prompt(self.environment.parsed_options.image_model))


class Mixed(_User):
    """Nine chats to one image."""

    @task(9)
    def ask_text(self) -> None:
        self.chat(self.next_prompt(self.environment.parsed_options.chat_model))

    @task(1)
    def ask_image(self) -> None:
        self.image(self.next_prompt(self.environment.parsed_options.image_model))


class Replay(_User):
    """Open loop: one user sends each request of a trace at its time, then ends the run."""

    fixed_count = 1

    @task
    def replay(self) -> None:
        asks = read(Path(self.environment.parsed_options.trace))
        images = {name for name in {ask.model for ask in asks} if not self._writes(name)}
        pool = Pool(REPLAYED_AT_ONCE)
        began = time.monotonic()
        for ask in asks:
            gevent.sleep(max(began + ask.at - time.monotonic(), 0.0))
            pool.spawn(self.image if ask.model in images else self.chat, ask)
        pool.join()
        self.environment.runner.quit()

    def _writes(self, model: str) -> bool:
        card = json.loads(self.client.get(f"/v1/models/{model}", name="model").text)
        return "TextGeneration" in card["features"]
