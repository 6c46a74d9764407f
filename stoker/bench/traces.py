"""Traces: what is asked when, a JSON object a line: {"at": 0.13, "model": "m", "prompt": "…"}."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from stoker.json_lines import read_json_lines

BURST_S = 1.0
"""How long a burst lasts."""
PROMPTS = (
    "What is NATS?",
    "What happens when a worker dies?",
    "red seven",
    "Why is my model hot?",
    "blue three",
)


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. at: seconds after the beginning; it counts in an open loop only."""

    at: float
    model: str
    prompt: str = PROMPTS[0]
    max_tokens: int = 32


class BadTrace(ValueError):
    """A line that is no request; names the file and the line."""


def generate(
    models: Sequence[str],
    rate: float,
    duration_s: float,
    *,
    zipf: float = 0.0,
    burst: float = 1.0,
    burst_every_s: float = 10.0,
    max_tokens: int = 32,
    seed: int = 0,
) -> Iterator[Ask]:
    """Requests that come by chance (Poisson), `rate` a second on average outside of bursts.

    zipf: the k-th model is asked for k**-zipf as often as the first; 0 = all alike. burst: how many times the
    rate is in the first second of every `burst_every_s`.
    """
    rng = random.Random(seed)
    weights = [(index + 1) ** -zipf for index in range(len(models))]
    at = 0.0
    while True:
        is_burst = burst != 1.0 and at % burst_every_s < BURST_S
        at += rng.expovariate(rate * burst if is_burst else rate)
        if at >= duration_s:
            return
        [model] = rng.choices(models, weights)
        yield Ask(round(at, 4), model, rng.choice(PROMPTS), max_tokens)


def repeat(
    models: Sequence[str], count: int, max_tokens: int = 32, zipf: float = 0.0, seed: int = 0
) -> Iterator[Ask]:
    """`count` requests without times, for a closed loop."""
    endless = generate(models, 1.0, float("inf"), zipf=zipf, max_tokens=max_tokens, seed=seed)
    return itertools.islice(endless, count)


def read(path: Path) -> list[Ask]:
    """A recorded or written trace, in the order of time. Raises BadTrace, OSError."""
    return sorted(read_json_lines(path, Ask, BadTrace), key=lambda ask: ask.at)


def write(path: Path, asks: Iterable[Ask]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(ask) + b"\n" for ask in asks))
