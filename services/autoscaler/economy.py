"""What replicas cost, and what waiting costs: which specs race, how long an idle replica is kept, how many are
worth their price. Pure.

Theory. A second of one request's waiting has a value (`waitingCostPerHour` of the model), a second of a replica
a price (`pricePerHour` of its profile). Where no price is known all specs of a group race, and replicas are
counted by `targetRequests` alone.

- **Race**: of the specs that may be launched the set is taken whose expected money until the first is
  ready, and expected waiting, together cost least. A spec is there with its learned chance of stock, and is
  ready after its median start four times of five, else after the 90th percentile.
- **Keep**: the last replica, when idle, is kept until it has cost what starting it again would: the waiting of
  those who come meanwhile, and its own price until it is ready (ski rental: at most twice the least that
  could have been paid, whenever the next request comes). Never less than the scale-down delay. One
  whose price is not known is taken to cost what waiting does.
- **Late**: n replicas finish the work that waits in 1/n of the time. The n is taken at which one more costs
  as much, idle times included, as it saves in waiting; but no more than have each as much to do as they
  take to start.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from stoker.schemas.fleet import SpecReplicas

HOUR_S = 3600.0
STARTS_KEPT = 32
FIRST_START_S = 60.0
"""How long a spec is taken to start until one has started."""
FIRST_STOCK = 0.9
"""The chance that an order is taken until one was."""
STOCK_SMOOTHING = 0.2
TYPICAL_SHARE = 0.8
"""How often a start takes the median; else it takes the 90th percentile."""
ASKED_AGAIN_S = 10.0
"""Where nothing is in stock, orders are given again after this."""
STEP_S, NEGLIGIBLE = 2.5, 1e-3
"""How expected starts are added up: in such steps, until so little is left."""


@dataclass(slots=True)
class Learned:
    """What was seen of one spec. starts: seconds from launch to ready, the last of them. stock: the chance
    that an order is taken. judged_at: orders of before belong to what is known already. in_vain: replicas in a
    row that were stopped before they had served anything.
    """

    starts: deque[float] = field(default_factory=lambda: deque(maxlen=STARTS_KEPT))
    stock: float = FIRST_STOCK
    judged_at: float = -math.inf
    in_vain: int = 0

    def started(self, seconds: float) -> None:
        self.starts.append(seconds)

    def ordered(self, launched_at: float, now: float, *, is_taken: bool) -> None:
        """An order was taken, or there was no stock: those of one batch are judged once."""
        if launched_at > self.judged_at:
            self.judged_at = now
            self.stock += STOCK_SMOOTHING * (float(is_taken) - self.stock)

    def recall(self, recorded: SpecReplicas) -> None:
        """What an earlier autoscaler has recorded."""
        if recorded.start_s is not None:
            slow_s = recorded.slow_start_s or recorded.start_s
            self.starts.extend([recorded.start_s] * 4 + [slow_s])
        if recorded.stock is not None:
            self.stock, self.judged_at = recorded.stock, 0.0

    def start_s(self, share: float) -> float | None:
        """A quantile of the starts; None before the first."""
        if not self.starts:
            return None
        ordered = sorted(self.starts)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@dataclass(frozen=True, slots=True)
class Racer:
    """A spec that could be launched. Seconds; price_s: money a second, of so many replicas as are needed."""

    name: str
    price_s: float
    stock: float = FIRST_STOCK
    start_s: float = FIRST_START_S
    slow_s: float = FIRST_START_S

    def ready_by(self, seconds: float) -> float:
        """The chance that it is ready by then; while there is no stock it is ordered again."""
        typical, slow = (self._taken_by(seconds - start_s) for start_s in (self.start_s, self.slow_s))
        return TYPICAL_SHARE * typical + (1.0 - TYPICAL_SHARE) * slow

    def _taken_by(self, seconds: float) -> float:
        orders = seconds // ASKED_AGAIN_S + 1.0
        return 1.0 - (1.0 - self.stock) ** orders if seconds >= 0 else 0.0


def first_ready_s(racers: Sequence[Racer]) -> float:
    """Expected seconds until the first of them is ready."""
    expected_s, at, not_yet = 0.0, 0.0, 1.0
    while not_yet > NEGLIGIBLE and at < HOUR_S:
        expected_s += not_yet * STEP_S
        at += STEP_S
        not_yet = math.prod(1.0 - one.ready_by(at) for one in racers)
    return expected_s


def cost(racers: Sequence[Racer], waiting_s: float) -> float:
    """Money until the first is ready, and what waiting costs meanwhile. waiting_s: a second of all who wait."""
    expected_s = first_ready_s(racers)
    return expected_s * (waiting_s + sum(one.stock * one.price_s for one in racers))


def race(racers: Sequence[Racer], waiting_s: float) -> list[str]:
    """The specs to launch: one after another is added while that costs less."""
    if not any(one.price_s for one in racers):
        return [one.name for one in racers]
    chosen: list[Racer] = []
    left = list(racers)
    while left:
        best = min(left, key=lambda one: cost([*chosen, one], waiting_s))
        if chosen and cost([*chosen, best], waiting_s) >= cost(chosen, waiting_s):
            break
        chosen.append(best)
        left.remove(best)
    return [one.name for one in chosen]


def kept_idle_s(price_s: float, start_s: float, waiting_s: float, rate: float) -> float:
    """How long an idle replica is worth its price. waiting_s: of one request, money a second; rate: requests
    a second that come while it would start again.
    """
    if not price_s:
        return 0.0
    meanwhile = max(rate * start_s, 1.0)
    return start_s + waiting_s * start_s * meanwhile / price_s


def worth(waiting: int, work_s: float, price_s: float, waiting_s: float, idle_s: float, start_s: float) -> int:
    """How many replicas that work is worth: work_s device seconds of so many requests. idle_s: of each that
    is paid for nothing, its start and the delay before it goes.
    """
    if not price_s or not waiting:
        return 0
    balanced = math.sqrt(waiting * work_s * waiting_s / (2.0 * price_s * max(idle_s, 1.0)))
    busy = math.ceil(work_s / max(start_s, 1.0))
    return min(round(balanced), busy, waiting)
