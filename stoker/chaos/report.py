"""A run in words: how much was asked, what was done to whom, which promises broke, and the story of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stoker.chaos.ledger import PROMISES, Broken, Ledger, judge, silence_beyond
from stoker.chaos.plan import Fault

STORIES = 5
STORY_S = 15.0
"""How long before and after a broken promise faults belong to its story."""


@dataclass(frozen=True, slots=True)
class Report:
    """seed: makes the same plan again. faults: those that were done."""

    seed: int
    ledger: Ledger
    faults: Sequence[Fault]
    broken: Sequence[Broken]

    @property
    def is_good(self) -> bool:
        return not self.broken

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        ledger = self.ledger
        longest, beyond = silence_beyond(ledger, self.faults)
        return {
            "seed": self.seed,
            "requests": ledger.requests,
            "jobs_accepted": sum(job.accepted_at is not None for job in ledger.jobs.values()),
            "faults": dict(Counter(f"{fault.kind} {fault.role}" for fault in self.faults)),
            "broken": {promise: self.count(promise) for promise in PROMISES},
            "longest_silence_s": round(longest, 2),
            "longest_silence_beyond_faults_s": round(beyond, 2),
            "stories": [self.story(broken) for broken in self.broken[:STORIES]],
        }

    def count(self, promise: str) -> int:
        return sum(broken.promise == promise for broken in self.broken)

    def lines(self) -> list[str]:
        """For people."""
        said = self.as_dict()
        done = ", ".join(f"{count} x {what}" for what, count in sorted(said["faults"].items())) or "none"
        lines = [
            f"seed {self.seed}: {said['requests']} requests, {said['jobs_accepted']} jobs accepted",
            f"faults: {done}",
            f"longest silence {said['longest_silence_s']} s, beyond the faults of its time "
            f"{said['longest_silence_beyond_faults_s']} s",
            *(f"{promise:<25} {self.count(promise)}" for promise in PROMISES),
        ]
        for story in said["stories"]:
            lines += ["", *story]
        return lines

    def story(self, broken: Broken) -> list[str]:
        """What a broken promise was, and what happened around it."""
        title = f"{broken.promise} {broken.job}: {broken.detail}"
        events = [
            (fault.at, f"{fault.kind} {fault.role} for {fault.seconds:g} s")
            for fault in self.faults
            if fault.until > broken.at - STORY_S and fault.at < broken.at + STORY_S
        ]
        job = self.ledger.jobs.get(broken.job)
        if job is not None:
            events += [(job.accepted_at, "accepted")] if job.accepted_at is not None else []
            events += [(at, f"404 at {gateway}") for at, gateway in job.missing]
            events += [
                (end.at, f"{end.status} at {end.gateway} {end.text or end.reason!r}") for end in job.ends
            ]
        return [title, *(f"  {at:8.2f} s  {what}" for at, what in sorted(events))]


def report_of(seed: int, ledger: Ledger, faults: Sequence[Fault]) -> Report:
    return Report(seed, ledger, faults, judge(ledger, faults))
