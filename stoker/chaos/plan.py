"""What happens to whom, and when: the same seed makes the same plan. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["scheduler", "gateway", "worker", "runner", "nats"]
Kind = Literal["kill", "stop", "pause", "cut"]
ROLES: tuple[Role, ...] = ("scheduler", "gateway", "worker", "runner", "nats")
KINDS: tuple[Kind, ...] = ("kill", "stop", "pause", "cut")

CANNOT: frozenset[tuple[Kind, Role]] = frozenset({("stop", "runner"), ("cut", "runner"), ("cut", "nats")})
"""A runner is stopped by its worker, and has no connection; cutting off the server cuts off everybody."""
LASTS_S: dict[Kind, tuple[float, ...]] = {"pause": (0.5, 3.0, 10.0), "cut": (0.5, 2.0, 5.0)}
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


def plan(
    seed: int, seconds: float, every_s: float, kinds: Sequence[Kind] = KINDS, roles: Sequence[Role] = ROLES
) -> Iterator[Fault]:
    """Faults in order, one every `every_s` on average; never two at a time on the same role."""
    chance = random.Random(seed)
    possible = [(kind, role) for kind in kinds for role in roles if (kind, role) not in CANNOT]
    free_at: dict[str, float] = dict.fromkeys(roles, 0.0)
    now = 0.0
    while possible:
        now += every_s * chance.uniform(0.5, 1.5)
        if now >= seconds:
            return
        kind, role = chance.choice(possible)
        lasts = chance.uniform(*RESTART_S) if kind in ("kill", "stop") else chance.choice(LASTS_S[kind])
        fault = Fault(round(now, 3), kind, role, chance.random(), round(lasts, 3))
        if now >= free_at[role]:
            free_at[role] = fault.until
            yield fault
