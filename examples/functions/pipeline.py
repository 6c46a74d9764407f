"""Two models in one function: both are loaded on the worker that runs it. Your own class needs a loader."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from stoker import ActionContext, ModelRef, Src, register_loader, worker_function


@dataclass
class Words:
    known: list[str]


@dataclass
class Rules:
    start: str
    end: str


def load_words(path: Path) -> Words:
    return Words(json.loads(path.read_text()))


def load_rules(path: Path) -> Rules:
    return Rules(**json.loads(path.read_text()))


register_loader(Words, load_words)
register_loader(Rules, load_rules)


class Ask(msgspec.Struct):
    count: int = 2


class Line(msgspec.Struct):
    text: str


@worker_function()
def compose(
    ctx: ActionContext,
    words: Annotated[Words, ModelRef(Src.FIXED, "words")],
    rules: Annotated[Rules, ModelRef(Src.FIXED, "rules")],
    payload: Ask,
) -> Line:
    """A line from the words of one model and the rules of another."""
    chosen = random.Random(ctx.seed).sample(words.known, payload.count)
    return Line(f"{rules.start} {' and the '.join(chosen)}, {rules.end}")
