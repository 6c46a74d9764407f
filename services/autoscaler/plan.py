"""What should change, from what is: launches and stops for one model, each with its reason. Pure.

- **Kept**: ready replicas, those that hold a request for the least money first, then in spec order, as long as
  those before them cannot hold the most that was asked for within the spec's scale-down delay; the last one for
  longer, where starting it again would cost more than it does (economy.py). The others are surplus, the
  dearest first.
- **An investment** is judged when it can be used: what starts stays for the demand that it was launched for,
  and what became ready stays for a scale-down delay, even where a standby has answered meanwhile. What
  starts is surplus only once ready replicas that are no dearer suffice.
- **Not again** where two in a row served nothing, since a standby had answered before they were ready: until
  requests come so often, or last so long, that one that had been launched for the one before would serve.
- **Launched**: when the ready ones cannot hold what is asked for now, one spec after another: the one with the
  fewest failures, the first of those, and with it those of its scale-up group that are worth their price.
  What is on its way counts; in a group each spec counts for itself, for it is a race.
- **Standby** (target 0): serves while nothing else is ready. It may go while another is ready, and the last
  other one goes only when it is back.

- **Replaced**: ready replicas that were launched with other settings than the spec has now, one at a time: a
  new one is launched, and once it is ready it counts before the old ones, which are the surplus then. At the
  maximum the old one goes first, and what it held is asked of the other specs.

- **Of a spec that is gone** (renamed, or taken out): a replica serves until those of the specs that there are
  hold what is asked for, and these are launched for it. It goes first where it has the hardware that they
  wait for.

A spec never has more replicas than its maximum, those that are draining included.
"""

import math
from dataclasses import dataclass, field

from stoker.schemas.catalog import Spec
from stoker.schemas.fleet import Replica
from stoker.services.autoscaler.backoff import OUT_OF_STOCK
from stoker.services.autoscaler.economy import race
from stoker.services.autoscaler.state import ModelState

SETTLE_S = 1.5
"""How long a surplus must last before it is stopped: replicas that come up together are told apart by spec
order, not by luck."""
LAUNCH_WINDOW_S = 2.0
"""Demand counts for launching as long as this: it flickers when a standby answers quickly."""

MOST_IN_VAIN = 2
"""Replicas in a row that are launched beside a standby and serve nothing, before demand has to prove itself."""


@dataclass(slots=True)
class Plan:
    """desired: replicas by spec when it is carried out. stops: (replica, why); launches: (spec, why)."""

    desired: dict[str, int] = field(default_factory=dict)
    launches: list[tuple[Spec, str]] = field(default_factory=list)
    stops: list[tuple[Replica, str]] = field(default_factory=list)


class Planner:
    """One plan in the making; see the file's opening. budget: replicas that may be launched."""

    def __init__(self, state: ModelState, budget: int, now: float) -> None:
        self.state = state
        self.budget = budget
        self.now = now
        self.plan = Plan()
        serving = [spec for spec in state.specs if not spec.is_standby]
        self.serving = serving
        self.cheapest = sorted(serving, key=self._price)
        self.standby = [spec for spec in state.specs if spec.is_standby]
        self.ready = {
            spec.name: sorted(state.in_phase(spec.name, "ready"), key=state.is_outdated) for spec in state.specs
        }
        self.coming = {spec.name: state.in_phase(spec.name, "launching", "starting") for spec in state.specs}
        self.replacements = {
            coming[0].id for name, coming in self.coming.items() if coming and self._outdated(name)
        }
        self.asked = state.demand.recent(LAUNCH_WINDOW_S, now)
        self._surplus: dict[str, float] = {}
        self._peaks: dict[tuple[str, float], float] = {}
        self._gone: list[Replica] = []
        """Replicas of specs that are gone, which serve until others can."""

    def make(self) -> Plan:
        kept = self._keep_ready()
        capacity = self._capacity(kept)
        self._stop_gone_specs(capacity)
        self._drop_coming(kept)
        self._balance_standby(kept)
        self._launch_for_minimum()
        self._launch_for_demand(capacity - self._stop_outdated())
        self._launch_replacements()
        self._settle()
        return self.plan

    def _stop_gone_specs(self, capacity: float) -> None:
        """What is left of specs that the configuration no longer has, but for those that still serve."""
        known = {spec.name for spec in self.state.specs}
        short = self._most_asked() > capacity if self.serving else not self._standby_is_back()
        for replica in self.state.replicas.values():
            if replica.spec in known or replica.phase == "draining":
                continue
            if self.state.specs and short and not self._is_in_the_way(replica):
                self._gone.append(replica)
            else:
                self.plan.stops.append((replica, "its spec is gone from the configuration"))

    def _most_asked(self) -> float:
        """The most that replicas of today's specs would be kept for."""
        return max((self._peak(spec) for spec in self.serving), default=0.0)

    def _is_in_the_way(self, replica: Replica) -> bool:
        """Whether a spec of today waits for hardware such as the replica has."""
        return any(
            spec.profile == replica.profile
            and (condition := self.state.health_of(spec.name).condition) is not None
            and condition.reason == OUT_OF_STOCK
            for spec in self.state.specs
        )

    def _capacity(self, kept: dict[str, int]) -> float:
        """Requests that these ready replicas, and those that others have started, are meant to hold."""
        outside = self.state.outside
        return float(
            sum(
                (kept[spec.name] + outside.get(spec.name, 0)) * spec.target_requests
                for spec in self.serving
                if spec.name in kept
            )
        )

    def _price(self, spec: Spec) -> float:
        """Of holding one request."""
        return self.state.prices.get(spec.name, 0.0) / spec.target_requests

    def _peak(self, spec: Spec, since: float = math.inf) -> float:
        """The most that was asked for within the delay, or since then; of one replica's worth within the
        time for which the last one is worth keeping. Looked up once in a plan.
        """
        found = self._peaks.get((spec.name, since))
        if found is None:
            demand, delay_s = self.state.demand, spec.scale_down_delay_s
            asked = demand.peak(max(delay_s, self.now - since + LAUNCH_WINDOW_S), self.now)
            kept = demand.peak(self.state.kept_s(spec), self.now)
            found = self._peaks[spec.name, since] = max(asked, min(kept, float(spec.target_requests)))
        return found

    def _peak_for(self, spec: Spec, replica: Replica) -> float:
        """The same for a ready replica: a new one is judged by what it was launched for."""
        is_new = self.now - replica.ready_at < spec.scale_down_delay_s
        return self._peak(spec, replica.launched_at if is_new else math.inf)

    # Keeping and stopping -------------------------------------------------------------------------

    def _keep_ready(self) -> dict[str, int]:
        """How many ready replicas of each serving spec stay; the others become surplus."""
        kept = {spec.name: 0 for spec in self.serving}
        surplus: list[tuple[Spec, Replica]] = []
        for spec in self.cheapest:
            for replica in self.ready[spec.name]:
                is_minimum = kept[spec.name] < spec.min_replicas
                if is_minimum or self._capacity(kept) < self._peak_for(spec, replica):
                    kept[spec.name] += 1
                else:
                    surplus.append((spec, replica))
        if surplus and not any(kept.values()) and not self._standby_is_back():
            spec, _ = surplus.pop(0)  # the last one stays until the standby is ready
            kept[spec.name] += 1
        for spec, replica in surplus:
            why = "others hold what is asked for" if any(kept.values()) else "nothing is asked for"
            self._mark_surplus(replica, SETTLE_S, f"{why} ({self._peak(spec):g} at most)")
        self.plan.desired |= kept
        return kept

    def _standby_is_back(self) -> bool:
        return all(len(self.ready[spec.name]) >= spec.min_replicas for spec in self.standby)

    def _drop_coming(self, kept: dict[str, int]) -> None:
        """What starts is surplus once ready ones that are no dearer suffice; the youngest go first."""
        for spec in self.serving:
            coming = self.coming[spec.name]
            price = self._price(spec)
            capacity = self._capacity(
                {one.name: kept[one.name] for one in self.serving if self._price(one) <= price}
            )
            asked = self._peak(spec, coming[0].launched_at) if coming else 0.0
            needed = max(asked - capacity, 0.0) / spec.target_requests
            minimum = spec.min_replicas - len(self.ready[spec.name])
            stays = math.ceil(min(max(needed, minimum, 0.0), len(coming)))
            why = "others were ready first" if capacity else "nothing is asked for any more"
            for replica in coming[stays:]:
                self._mark_surplus(replica, SETTLE_S, why)
            self.plan.desired[spec.name] += stays

    def _balance_standby(self, kept: dict[str, int]) -> None:
        is_alone = not any(kept.values()) and not self._is_served_outside()
        others_stay = not is_alone and self._others_stay(kept)
        for spec in self.standby:
            here = [*self.ready[spec.name], *self.coming[spec.name]]
            wanted = 0 if others_stay else spec.min_replicas
            if is_alone and self.asked > 0:
                wanted = max(wanted, 1)
            stays = max(wanted, 1) if is_alone and self._peak(spec) > 0 else wanted
            why, delay_s = "nothing is asked for", SETTLE_S
            if others_stay:
                why, delay_s = "others are ready", spec.scale_down_delay_s
            for replica in here[stays:]:
                self._mark_surplus(replica, delay_s, why)
            self.plan.desired[spec.name] = wanted
            if len(here) < wanted:
                self._launch(spec, wanted - len(here), "standby: nothing else stays ready")

    def _is_served_outside(self) -> bool:
        return any(self.state.outside.get(spec.name, 0) for spec in self.serving)

    def _others_stay(self, kept: dict[str, int]) -> bool:
        """Whether a serving replica stays for a reason of its own, not just until the standby is back."""
        return self._is_served_outside() or any(
            kept[spec.name] and (spec.min_replicas or self._peak(spec) > 0) for spec in self.serving
        )

    def _mark_surplus(self, replica: Replica, delay_s: float, why: str) -> None:
        if replica.id in self.replacements:
            return
        since = self.state.surplus_since.get(replica.id, self.now)
        self._surplus[replica.id] = since
        if self.now - since >= delay_s:
            self.plan.stops.append((replica, why))

    def _settle(self) -> None:
        self.state.surplus_since = self._surplus

    # Launching ------------------------------------------------------------------------------------

    def _room(self, spec: Spec) -> int:
        """Replicas of a spec that may be launched now."""
        health = self.state.health_of(spec.name)
        ordered = sum(launched.name == spec.name for launched, _ in self.plan.launches)
        under_way = [*(one.launched_at for one in self.coming[spec.name]), *([self.now] * ordered)]
        if spec.name not in self.state.launch_keys or not health.may_launch(under_way, self.now):
            return 0
        limit = spec.max_replicas - self.state.count(spec.name) - ordered if spec.max_replicas else self.budget
        return max(min(limit, self.budget, 1 if health.condition is not None else self.budget), 0)

    def _launch(self, spec: Spec, count: int, why: str) -> None:
        count = min(count, self._room(spec))
        self.budget -= count
        self.plan.launches += [(spec, why)] * count

    def _on_the_way(self, spec: Spec) -> int:
        ordered = sum(launched.name == spec.name for launched, _ in self.plan.launches)
        return len(self.coming[spec.name]) + ordered

    def _launch_for_minimum(self) -> None:
        for spec in self.serving:
            short = spec.min_replicas - len(self.ready[spec.name]) - self._on_the_way(spec)
            if short > 0:
                self._launch(spec, short, f"at least {spec.min_replicas} always")
                self.plan.desired[spec.name] = max(self.plan.desired[spec.name], spec.min_replicas)

    def _launch_for_demand(self, capacity: float) -> None:
        most = self._most_asked() if self._gone else 0.0
        missing = max(self.asked, most if math.isfinite(most) else 1.0) - capacity
        if missing <= 0:
            return
        coming: dict[str, float] = {}
        for spec in self.serving:
            group = _group(spec)
            held = float(self._on_the_way(spec) * spec.target_requests)
            coming[group] = max(coming.get(group, 0.0), held)
        tried: set[str] = set()
        while missing - sum(coming.values()) > 0:
            open_specs = [
                spec
                for spec in self.serving
                if _group(spec) not in tried and self._room(spec) and not self._is_in_vain(spec)
            ]
            if not open_specs:
                return
            first = min(open_specs, key=lambda spec: self.state.health_of(spec.name).failures)
            group = _group(first)
            tried.add(group)
            elsewhere = sum(held for name, held in coming.items() if name != group)
            for spec in self._racing(
                [spec for spec in open_specs if _group(spec) == group], missing - elsewhere
            ):
                self._race(spec, missing - elsewhere)
                held = float(self._on_the_way(spec) * spec.target_requests)
                coming[group] = max(coming[group], held)

    def _is_in_vain(self, spec: Spec) -> bool:
        """Whether what is launched now would be gone before it serves: so it was with the last ones, a standby
        answers, and what was asked for before this was over too early, or came too long ago, for one that had
        been launched then.
        """
        if self.state.learned_of(spec.name).in_vain < MOST_IN_VAIN or not self.standby:
            return False
        if not all(self.ready[one.name] for one in self.standby):
            return False
        start_s = self.state.start_s(spec.name)
        until_s = max(self.state.kept_s(spec), start_s + spec.scale_down_delay_s)
        return not self.state.demand.lasted(until_s, start_s, self.now)

    def _racing(self, specs: list[Spec], missing: float) -> list[Spec]:
        """Those of a group that are launched: the set that costs least, what waits included."""
        racers = [self.state.racer(spec, math.ceil(missing / spec.target_requests)) for spec in specs]
        chosen = race(racers, self.state.waiting_cost * max(missing, 1.0))
        return [spec for spec in specs if spec.name in chosen]

    # Replacing ------------------------------------------------------------------------------------

    def _outdated(self, spec: str) -> list[Replica]:
        return [replica for replica in self.ready[spec] if self.state.is_outdated(replica)]

    def _next_to_replace(self, spec: Spec) -> Replica | None:
        """The ready replica of before whose turn it is; none while another is on its way, or the spec rests."""
        stays = [replica for replica in self._outdated(spec.name) if replica.id not in self._surplus]
        if not stays or self.state.health_of(spec.name).is_resting(self.now) or self._on_the_way(spec):
            return None
        return stays[-1]

    def _is_full(self, spec: Spec) -> bool:
        return bool(spec.max_replicas) and self.state.count(spec.name) >= spec.max_replicas

    def _stop_outdated(self) -> float:
        """Make room where a spec is at its maximum; the requests that those which go were meant to hold."""
        lost = 0.0
        for spec in self.state.specs:
            old = self._next_to_replace(spec)
            if old is not None and self._is_full(spec) and not self.state.in_phase(spec.name, "draining"):
                self.plan.stops.append((old, "its settings are of before, and there is no room for another"))
                lost += spec.target_requests
        return lost

    def _launch_replacements(self) -> None:
        for spec in self.state.specs:
            old = self._next_to_replace(spec)
            if old is not None and not self._is_full(spec):
                self._launch(spec, 1, f"the settings of {old.id} are of before")

    def _race(self, spec: Spec, missing: float) -> None:
        """Launch as many of one spec as would hold by themselves what is missing."""
        wanted = math.ceil(missing / spec.target_requests) - self._on_the_way(spec)
        before = len(self.plan.launches)
        if wanted > 0:
            late_s = self.state.late_s
            why = f"{late_s:.0f} s of work wait" if late_s else f"{self.asked:g} requests wait or run"
            if self._gone and not self.asked:
                why = f"in place of {self._gone[0].id}, whose spec is gone"
            self._launch(spec, wanted, why)
        self.plan.desired[spec.name] += len(self.plan.launches) - before


def _group(spec: Spec) -> str:
    """Specs of one scale-up group race; a spec without a group is one of its own."""
    return f"group {spec.scale_group}" if spec.scale_group else f"spec {spec.name}"
