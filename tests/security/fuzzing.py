"""Messages that are wrong in many ways, made from right ones. The same seed makes the same ones."""

import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

WILD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -1.5, 1e308, -1e308, 5e-324,
    "", " ", "\x00", "\ud800", "é" * 300, "x" * 5000, "../..", "*", ">", "a.b", "=", "=ZZ", [], [[]], {}, {"": {}},
    [0] * 2000, {"a": None},
)  # fmt: skip
"""Values for places where something else is expected, or this in another range."""


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    payload: bytes
    headers: dict[str, str]


class Fuzzer:
    """Makes wrong messages of recorded ones."""

    def __init__(self, seed: int, recorded: list[Message]) -> None:
        self.chance = random.Random(seed)
        self._recorded = recorded
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            self._wild, self._wild, self._wild, self._lacking, self._cut, self._noise, self._deep, self._twice,
        )  # fmt: skip

    def messages(self, count: int) -> Iterator[Message]:
        for _ in range(count):
            found = self.chance.choice(self._recorded)
            other = self.chance.choice(self._recorded)
            subject = other.subject if self.chance.random() < 0.1 else found.subject
            payload = self.chance.choice(self._ways)(found.payload)
            yield Message(self._subject(subject), payload, self._headers(found.headers))

    def _subject(self, subject: str) -> str:
        """Mostly the same; now and then another last name."""
        if self.chance.random() < 0.9:
            return subject
        name = "".join(self.chance.choices(string.ascii_letters + "=-_0", k=self.chance.randint(1, 40)))
        return f"{subject.rpartition('.')[0]}.{name}"

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        if self.chance.random() < 0.9:
            return headers
        wild = self.chance.choice(["", "-1", "9" * 5000, "NaN", "é", "0"])
        return {name: wild for name in headers} | {"Stoker-Json-Bytes": wild}

    def _wild(self, payload: bytes) -> bytes:
        """One to three values are others."""
        content = _parsed(payload)
        for _ in range(self.chance.randint(1, 3)):
            content = self._replaced(content, self.chance.choice(WILD))
        return json.dumps(content).encode()

    def _replaced(self, content: Any, value: Any) -> Any:
        if isinstance(content, dict) and content and self.chance.random() < 0.9:
            key = self.chance.choice(list(content))
            return content | {key: self._replaced(content[key], value)}
        if isinstance(content, list) and content and self.chance.random() < 0.9:
            at = self.chance.randrange(len(content))
            return [*content[:at], self._replaced(content[at], value), *content[at + 1 :]]
        return value

    def _lacking(self, payload: bytes) -> bytes:
        """One field is not there, and one is there that nobody knows."""
        content = _parsed(payload)
        if not isinstance(content, dict) or not content:
            return b"{}"
        gone = self.chance.choice(list(content))
        return json.dumps({key: value for key, value in content.items() if key != gone} | {"new": 1}).encode()

    def _cut(self, payload: bytes) -> bytes:
        return payload[: self.chance.randint(0, len(payload))]

    def _noise(self, payload: bytes) -> bytes:
        noisy = bytearray(payload or b"{}")
        for _ in range(self.chance.randint(1, 5)):
            noisy[self.chance.randrange(len(noisy))] = self.chance.randrange(256)
        return bytes(noisy)

    def _deep(self, payload: bytes) -> bytes:
        depth = self.chance.choice([50, 600, 5000, 200_000])
        return self.chance.choice([b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth])

    def _twice(self, payload: bytes) -> bytes:
        return payload + payload


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return {}
