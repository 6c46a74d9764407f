"""What a reader has of a worker is a heartbeat that the worker has said, whatever is lost, late or doubled on the
way; and the newest, soon after messages come through again.
"""

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.schemas import wire
from stoker.schemas.heartbeats import (
    FULL_EVERY_S,
    HeartbeatChange,
    Solicitation,
    change_since,
    in_tiers,
    joined,
)
from stoker.schemas.workers import (
    HEARTBEAT_INTERVAL_S,
    EngineCapability,
    Heartbeat,
    ResidentModel,
    Resources,
    RunningJob,
    Tier,
)
from stoker.services.bus.heartbeats import ASK_EVERY_S, FORGET_AFTER_S, Joining
from stoker.services.worker.saying import Saying

TIERS = st.sampled_from(["hot", "loading", "warm", "parked"])
LEADS, LED_BEFORE, ASKS = Solicitation(reads_changes=True), wire.decode(Solicitation, b"{}"), Solicitation(None)
MANY = tuple(ResidentModel(f"m{number}", "default", "text", "warm", 10**9, path="/m") for number in range(20))


def beat_of(worker: str = "w", life: float = 1.0, seq: int = 1, **fields: Any) -> Heartbeat:
    models = fields.pop("models", MANY)
    return Heartbeat(
        worker=worker,
        started_at=life,
        seq=seq,
        spec="",
        profile="cpu",
        device="cpu",
        host="h",
        engines={"text": EngineCapability(2, 1, ("TextGeneration",))},
        memory_total_bytes=10**10,
        memory_used_bytes=0,
        models=models,
        **in_tiers(models),
        **fields,
    )


class SomeWorker:
    """One that changes, and says so as the real one does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.life = 0.0
        self.said: dict[tuple[float, int], Heartbeat] = {}
        self.start()

    def start(self) -> None:
        self.life += 1.0
        self.seq = 0
        self.saying = Saying()
        self.models = {one.model: one for one in MANY}
        self.running: dict[str, RunningJob] = {}
        self.memory = 0

    def say(self, now: float, *, is_leaving: bool = False) -> tuple[Any, bytes]:
        self.seq += 1
        beat = beat_of(
            self.name,
            self.life,
            self.seq,
            models=tuple(self.models.values()),
            running=tuple(self.running.values()),
            rss_bytes=self.memory,
            resources=Resources(cpu_percent=self.memory / 7),
            is_leaving=is_leaving,
            may_change=self.saying.waits,
        )
        self.said[self.life, self.seq] = beat
        return self.saying.next(beat, now)


class Readers(RuleBasedStateMachine):
    """Two workers, a wire that loses, doubles and reorders, one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.workers = {name: SomeWorker(name) for name in "ab"}
        self.wire: list[tuple[Any, bytes]] = []
        self.joining = Joining()
        self.now = 100.0
        self.has: dict[str, Heartbeat] = {}
        self.asked: dict[str, float] = {}

    names = st.sampled_from("ab")

    @initialize(leads=st.booleans())
    def begin(self, leads: bool) -> None:
        for worker in self.workers.values():
            if leads:
                worker.saying.solicited(LEADS)

    def said(self, worker: SomeWorker, **how: Any) -> None:
        self.wire.append(worker.say(self.now, **how))

    @rule(name=names, model=st.integers(0, 22), tier=TIERS)
    def model_moves(self, name: str, model: int, tier: Tier) -> None:
        worker = self.workers[name]
        worker.models[f"m{model}"] = msgspec.structs.replace(MANY[0], model=f"m{model}", tier=tier)
        self.said(worker)

    @rule(name=names, model=st.integers(0, 22))
    def model_goes(self, name: str, model: int) -> None:
        self.workers[name].models.pop(f"m{model}", None)
        self.said(self.workers[name])

    @rule(name=names, job=st.sampled_from("jkl"), attempt=st.integers(1, 3))
    def job_runs_or_ends(self, name: str, job: str, attempt: int) -> None:
        worker = self.workers[name]
        if worker.running.pop(job, None) is None:
            worker.running[job] = RunningJob(job, "m0", "default", attempt)
        self.said(worker)

    @rule(name=names, more=st.integers(0, 5))
    def time_passes(self, name: str, more: int) -> None:
        self.now += HEARTBEAT_INTERVAL_S
        self.workers[name].memory += more
        self.said(self.workers[name])

    @rule(name=names, asked=st.sampled_from([LEADS, LED_BEFORE, ASKS]))
    def solicited(self, name: str, asked: Solicitation) -> None:
        self.workers[name].saying.solicited(asked)
        self.said(self.workers[name])

    @rule(name=names)
    def connection_is_lost(self, name: str) -> None:
        self.workers[name].saying.disconnected()

    @rule(name=names, says_goodbye=st.booleans(), leads=st.booleans())
    def restarts(self, name: str, says_goodbye: bool, leads: bool) -> None:
        worker = self.workers[name]
        if says_goodbye:
            self.said(worker, is_leaving=True)
        worker.start()
        if leads:
            worker.saying.solicited(LEADS)
        self.said(worker)

    @rule()
    def reader_restarts(self) -> None:
        self.joining, self.has, self.asked = Joining(), {}, {}

    @precondition(lambda self: self.wire)
    @rule(at=st.integers(0, 5), is_doubled=st.booleans())
    def comes(self, at: int, is_doubled: bool) -> None:
        message = self.wire[min(at, len(self.wire) - 1)]
        if not is_doubled:
            self.wire.remove(message)
        self.take(message)

    @precondition(lambda self: self.wire)
    @rule(at=st.integers(0, 5))
    def is_lost(self, at: int) -> None:
        del self.wire[min(at, len(self.wire) - 1)]

    def take(self, message: tuple[Any, bytes]) -> None:
        kind, data = message
        if kind is Heartbeat:
            found = self.joining.whole(wire.decode(Heartbeat, data), self.now)
        else:
            change = wire.decode(HeartbeatChange, data)
            found = self.joining.change(change, self.now)
            if found is None and self.joining.is_news(change) and self.joining.may_ask(change.worker, self.now):
                before = self.asked.get(change.worker, 0.0)
                assert self.now - before >= ASK_EVERY_S or not before, "asked too often"
                self.asked[change.worker] = self.now
                self.workers[change.worker].saying.solicited(ASKS)
        if found is not None:
            self.handed_on(found)

    def handed_on(self, beat: Heartbeat) -> None:
        worker = self.workers[beat.worker]
        assert beat == worker.said[beat.started_at, beat.seq], "nobody has said this"
        had = self.has.get(beat.worker)
        if had is not None and not had.is_leaving and beat.started_at == had.started_at:
            assert beat.seq > had.seq, "older than what was handed on"
        if had is None or beat.started_at >= had.started_at:
            self.has[beat.worker] = beat

    @precondition(lambda self: not self.wire)
    @rule(name=names)
    def the_newest_is_known_within_the_limit(self, name: str) -> None:
        """Whatever was lost: once nothing is lost any more."""
        worker = self.workers[name]
        for _ in range(int(FULL_EVERY_S / HEARTBEAT_INTERVAL_S) + 1):
            self.now += HEARTBEAT_INTERVAL_S
            self.take(worker.say(self.now))
        assert self.has[name] == worker.said[worker.life, worker.seq]

    @invariant()
    def nobody_is_asked_for_what_is_known(self) -> None:
        for name, beat in self.has.items():
            if not beat.is_leaving:
                old = HeartbeatChange(name, beat.started_at, seq=0, base=0)
                assert not self.joining.is_news(old)


TestReaders = Readers.TestCase
TestReaders.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


def test_a_change_says_only_what_is_different_and_gives_the_same() -> None:
    base = beat_of(running=(RunningJob("j", "m0", "default", 1), RunningJob("k", "m0", "default", 1)))
    models = (msgspec.structs.replace(MANY[0], tier="hot"), *MANY[1:19])
    after = beat_of(seq=2, models=models, running=(RunningJob("k", "m0", "default", 2),), rss_bytes=7)
    change = change_since(base, after)
    assert change is not None
    assert (change.models, change.gone_models, change.gone_jobs) == (models[:1], ("m19",), ("j",))
    assert len(wire.encode(change)) < len(wire.encode(after)) / 4
    assert joined(base, wire.decode(HeartbeatChange, wire.encode(change))) == after


def test_what_no_change_can_say_is_said_whole() -> None:
    base = beat_of()
    assert change_since(base, beat_of(seq=2, models=MANY[::-1])) is None, "another order"
    assert change_since(base, msgspec.structs.replace(base, seq=2, device="cuda")) is None


def test_nothing_but_whole_ones_until_a_leader_reads_changes_and_after_one_that_does_not() -> None:
    saying = Saying()
    kinds = []
    for seq, asked in enumerate([None, ASKS, LEADS, None, None, ASKS, None, LED_BEFORE, None, LEADS, None], 1):
        if asked is not None:
            saying.solicited(asked)
        kinds.append(saying.next(beat_of(seq=seq), 1.0)[0] is Heartbeat)
    assert kinds == [True, True, True, False, False, True, False, True, True, True, False]
    saying.disconnected()
    assert saying.waits and saying.next(beat_of(seq=20), 1.0)[0] is Heartbeat


def test_services_of_the_version_before_hear_a_worker_before_they_take_it_for_gone() -> None:
    saying = Saying()
    saying.solicited(LEADS)
    whole = [now for now in range(60) if saying.next(beat_of(seq=now + 1), float(now))[0] is Heartbeat]
    assert max(later - one for one, later in pairwise(whole)) <= FULL_EVERY_S < 6.0


def test_models_that_are_as_before_are_the_same_object_and_who_is_silent_is_forgotten() -> None:
    joining = Joining()
    first = joining.whole(beat_of(), 0.0)
    again = joining.whole(wire.decode(Heartbeat, wire.encode(beat_of(seq=2))), 1.0)
    assert first is not None and again is not None and again.models is first.models
    change = HeartbeatChange("w", 1.0, seq=3, base=2)
    assert joining.change(change, 2.0) is not None
    assert joining.change(change, 2.0) is None, "it came already"
    joining.whole(beat_of("other"), 2.0 + 2 * FORGET_AFTER_S)
    assert joining.change(HeartbeatChange("w", 1.0, seq=4, base=2), 200.0) is None


def test_a_change_of_another_process_with_the_same_number_is_not_applied() -> None:
    joining = Joining()
    joining.whole(beat_of(life=2.0), 0.0)
    for life, is_news in ((1.0, False), (3.0, True)):
        change = HeartbeatChange("w", life, seq=2, base=1)
        assert joining.change(change, 0.0) is None
        assert joining.is_news(change) is is_news
    assert joining.whole(beat_of(life=1.0), 0.0) is not None, "an earlier process may still be there"
    assert joining.change(HeartbeatChange("w", 2.0, seq=2, base=1), 0.0) is not None
