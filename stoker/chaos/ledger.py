"""What clients were told, and which promises that breaks. Pure.

| promise | is broken when |
|---|---|
| lost | a job that was accepted is not there |
| doubled | two ends of one job differ, or one stream has two |
| wrong | the text of a completed job, or of a stream, is another than the same request gave in quiet |
| ended by nobody | a job is cancelled that nobody cancelled |
| failed by infrastructure | a job failed, or expired, though it would complete in quiet |
| never ended | a job has no end when all is calm again |
| refused | a request was answered with an error that is not to be tried again |
| silent | a request heard nothing for longer than SILENT_S, not counting the time in which a fault lasted |
| crashed | a process ended that nobody ended |
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stoker.chaos.plan import Fault

SILENT_S = 10.0
PROMISES = (
    "lost", "doubled", "wrong", "ended by nobody", "failed by infrastructure", "never ended", "refused",
    "silent", "crashed",
)  # fmt: skip
FAILED = ("failed", "expired")


@dataclass(frozen=True, slots=True)
class End:
    """An end of a job that somebody was told. text: of one that completed, where it has one."""

    at: float
    gateway: str
    status: str
    text: str | None = None
    reason: str = ""


@dataclass(slots=True)
class Job:
    """One job. expected: its text in quiet; None where that is not known. streams: texts that were received."""

    id: str
    expected: str | None = None
    accepted_at: float | None = None
    is_cancelled: bool = False
    ends: list[End] = field(default_factory=list)
    missing: list[tuple[float, str]] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    ends_in_a_stream: int = 0


@dataclass(frozen=True, slots=True)
class Silence:
    """From when to when a request waited for its next byte."""

    began: float
    ended: float
    what: str


@dataclass(frozen=True, slots=True)
class Broken:
    promise: str
    job: str
    detail: str
    at: float


@dataclass(slots=True)
class Ledger:
    """Times are seconds since the run began."""

    jobs: dict[str, Job] = field(default_factory=dict)
    refusals: list[tuple[float, str]] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    crashes: list[tuple[float, str]] = field(default_factory=list)
    requests: int = 0

    def job(self, name: str, expected: str | None = None) -> Job:
        """The job of this id; a new one where it is the first time."""
        if name not in self.jobs:
            self.jobs[name] = Job(name, expected)
        return self.jobs[name]

    def waited(self, began: float, ended: float, what: str) -> None:
        """A request had its answer, or the next event of it."""
        if ended - began > 1.0:  # the rest breaks no promise, and there is much of it
            self.silences.append(Silence(began, ended, what))


def judge(ledger: Ledger, faults: Sequence[Fault]) -> list[Broken]:
    """Every promise that was broken, in the order of time."""
    found = [broken for job in ledger.jobs.values() for broken in _of_job(job)]
    found += [Broken("refused", "", detail, at) for at, detail in ledger.refusals]
    found += [Broken("crashed", "", detail, at) for at, detail in ledger.crashes]
    for silence in ledger.silences:
        seconds = silence.ended - silence.began
        disturbed = disturbed_during(faults, silence.began, silence.ended)
        if seconds - disturbed > SILENT_S:
            detail = f"{silence.what}: {seconds:.1f} s, faults lasted for {disturbed:.1f} s of that"
            found.append(Broken("silent", "", detail, silence.began))
    return sorted(found, key=lambda broken: broken.at)


def _of_job(job: Job) -> Iterable[Broken]:
    if job.accepted_at is None:
        return
    for at, gateway in job.missing:
        yield Broken("lost", job.id, f"404 at {gateway}", at)
    told = {(end.status, end.text) for end in job.ends if end.status != "completed" or end.text is not None}
    last = job.ends[-1].at if job.ends else job.accepted_at
    if len(told) > 1 or job.ends_in_a_stream > 1:
        yield Broken(
            "doubled", job.id, f"{job.ends_in_a_stream} ends in a stream, {sorted(map(str, told))}", last
        )
    for text in {end.text for end in job.ends if end.status == "completed"} | set(job.streams):
        if text is not None and job.expected is not None and text != job.expected:
            yield Broken("wrong", job.id, f"{text!r} instead of {job.expected!r}", last)
    statuses = {end.status for end in job.ends}
    if "cancelled" in statuses and not job.is_cancelled:
        yield Broken("ended by nobody", job.id, "it was cancelled, and nobody had asked for that", last)
    for end in job.ends:
        if end.status in FAILED:
            yield Broken("failed by infrastructure", job.id, f"{end.status}: {end.reason}", end.at)
            break
    if not job.ends:
        yield Broken("never ended", job.id, "it has no end", job.accepted_at)


def disturbed_during(faults: Sequence[Fault], began: float, ended: float) -> float:
    """Seconds of a time in which some fault lasted; where several did at once, they count once."""
    total, covered_to = 0.0, began
    for fault in sorted(faults, key=lambda one: one.at):
        start, end = max(fault.at, covered_to), min(fault.until, ended)
        if end > start:
            total += end - start
            covered_to = end
    return total


def silence_beyond(ledger: Ledger, faults: Sequence[Fault]) -> tuple[float, float]:
    """The longest silence, and the longest beyond the faults of its time; seconds."""
    pairs = [
        (one.ended - one.began, one.ended - one.began - disturbed_during(faults, one.began, one.ended))
        for one in ledger.silences
    ]
    return max((whole for whole, _ in pairs), default=0.0), max((beyond for _, beyond in pairs), default=0.0)
