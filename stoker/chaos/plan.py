"""What happens to whom, and when: the same seed makes the same plan. Pure."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["scheduler", "gateway", "worker", "runner", "nats"]
Kind = Literal["kill", "stop", "pause", "cut"]
ROLES: tuple[Role, ...] = ("scheduler", "gateway", "worker", "runner", "nats")
KINDS: tuple[Kind, ...] = ("kill", "stop", "pause", "cut")

CUTTABLE: tuple[Role, ...] = ("scheduler", "gateway", "worker")
"""Whom a proxy can cut off. Where there is one server, cutting it off would cut off everybody."""
PAUSES_S = (0.5, 3.0, 10.0)
CUTS_S = (0.5, 2.0, 5.0)
RESTART_S = (0.1, 1.0)
"""How long a process that was killed or stopped stays away: from, to."""


@dataclass(frozen=True, slots=True)
class Fault:
    """at, seconds: from the beginning of the run, and how long. which: 0 to 1, chooses among the role's."""

    at: float
    kind: Kind
    role: Role
    which: float
    seconds: float

    @property
    def until(self) -> float:
        return self.at + self.seconds


@dataclass(frozen=True, slots=True)
class Choice:
    """What may happen, to whom, and for how long: pauses_s, cuts_s, one of them each time."""

    kinds: Sequence[Kind] = KINDS
    roles: Sequence[Role] = ROLES
    cuttable: Sequence[Role] = CUTTABLE
    pauses_s: Sequence[float] = PAUSES_S
    cuts_s: Sequence[float] = CUTS_S

    def possible(self) -> list[tuple[Kind, Role]]:
        """A runner is stopped by its worker, and has no connection."""
        return [
            (kind, role)
            for kind in self.kinds
            for role in self.roles
            if (kind != "cut" or role in self.cuttable) and (kind, role) != ("stop", "runner")
        ]

    def seconds(self, kind: Kind, chance: random.Random) -> float:
        """How long a fault lasts; of kill and stop: how long the process stays away."""
        if kind == "pause":
            return chance.choice(self.pauses_s)
        return chance.choice(self.cuts_s) if kind == "cut" else chance.uniform(*RESTART_S)


def plan(seed: int, seconds: float, every_s: float, choice: Choice) -> Iterator[Fault]:
    """Faults in order, one every `every_s` on average; never two at a time on the same role."""
    chance = random.Random(seed)
    possible = choice.possible()
    free_at: dict[str, float] = dict.fromkeys(choice.roles, 0.0)
    now = 0.0
    while possible:
        now += every_s * chance.uniform(0.5, 1.5)
        if now >= seconds:
            return
        kind, role = chance.choice(possible)
        lasts = choice.seconds(kind, chance)
        fault = Fault(math.floor(now * 1000) / 1000, kind, role, chance.random(), round(lasts, 3))
        if now >= free_at[role]:
            free_at[role] = fault.until
            yield fault
