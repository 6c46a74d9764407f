"""Attempts of a worker: every move of the table and no other; what is held is let go; slots, batches, revocations."""

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.schemas.catalog import Spec
from stoker.schemas.jobs import Attachment, CompletionInput, ImageInput, Job, JobInput
from stoker.schemas.workers import Accepted, Assignment, EngineCapability, Refused
from stoker.services.worker.jobs.attempt import (
    HOLDS,
    TAKES_SLOT,
    TRANSITIONS,
    WAITS,
    Attempt,
    IllegalMove,
    Phase,
    StopReason,
)
from stoker.services.worker.jobs.core import MAX_WRITTEN, WorkerCore

ENGINES = {
    "text": EngineCapability(2, 1, ("TextGeneration",)),
    "image": EngineCapability(1, 1, ("ImageGeneration",), lane="device"),
}
PHASES: list[Phase] = list(TRANSITIONS)
WAY: dict[Phase, list[Phase]] = {
    "preparing": [],
    "ready": ["ready"],
    "running": ["ready", "running"],
    "waiting": ["ready", "running", "waiting"],
    "resuming": ["ready", "running", "waiting", "resuming"],
    "writing": ["ready", "running", "writing"],
    "stopping": ["ready", "running", "stopping"],
    "ending": ["ending"],
    "gone": ["gone"],
}


def assignment(
    name: str = "j",
    attempt: int = 1,
    term: int = 1,
    engine: str = "text",
    job_input: JobInput | None = None,
    model: str = "m",
    **spec: Any,
) -> Assignment:
    job = Job(name, model, job_input or CompletionInput("x"), "gw", 1.0)
    return Assignment(job=job, attempt=attempt, term=term, spec=Spec("default", engine, "", **spec))


def taken(core: WorkerCore, *args: Any, **fields: Any) -> Attempt:
    given = assignment(*args, **fields)
    assert isinstance(core.assign(given, 5.0), Accepted)
    attempt = core.current(given.job.id)
    assert attempt is not None
    return attempt


def in_phase(phase: Phase) -> tuple[WorkerCore, Attempt]:
    core = WorkerCore(ENGINES)
    attempt = taken(core)
    for step in WAY[phase]:
        core.move(attempt, step)
    return core, attempt


@pytest.mark.parametrize("to", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_the_table_decides_and_an_illegal_move_changes_nothing(phase: Phase, to: Phase) -> None:
    core, attempt = in_phase(phase)
    let_go: list[str] = []
    if phase in HOLDS:
        attempt.hold(lambda: let_go.append("pin"))
    if to in TRANSITIONS[phase]:
        core.move(attempt, to)
        assert attempt.phase == to
        assert let_go == (["pin"] if to not in HOLDS and phase in HOLDS else [])
    else:
        with pytest.raises(IllegalMove, match=f"{phase} -> {to}"):
            core.move(attempt, to)
        assert (attempt.phase, let_go) == (phase, [])
    core.validate()


@pytest.mark.parametrize("phase", sorted(HOLDS))
@pytest.mark.parametrize("to", ["ending", "gone"])
def test_everything_that_is_held_is_let_go_the_last_first_and_once(phase: Phase, to: Phase) -> None:
    core, attempt = in_phase(phase)
    let_go: list[int] = []
    for number in range(3):
        attempt.hold(lambda number=number: let_go.append(number))
    core.move(attempt, to)
    assert let_go == [2, 1, 0]
    if to == "ending":
        core.move(attempt, "gone")
    assert let_go == [2, 1, 0]


def test_what_comes_after_the_end_is_let_go_at_once() -> None:
    """A companion that was loaded while its call was cancelled."""
    core, attempt = in_phase("preparing")
    let_go: list[str] = []
    assert attempt.hold(lambda: let_go.append("model"))
    core.stop(attempt, "cancelled")
    assert not attempt.hold(lambda: let_go.append("companion")), "whoever loaded it has to know"
    assert let_go == ["model", "companion"]
    assert not attempt.is_held


def test_an_attempt_that_was_revoked_is_not_taken_again_while_its_engine_stops() -> None:
    core, attempt = in_phase("running")
    core.stop(attempt, "revoked")
    assert isinstance(core.assign(attempt.assignment, 6.0), Refused)
    assert core.by_key(attempt.key) is attempt
    core.validate()
    core.move(attempt, "gone")
    assert isinstance(core.assign(attempt.assignment, 7.0), Accepted)


def test_a_lane_runs_as_many_as_it_has_slots_and_one_that_stops_keeps_its_slot() -> None:
    core = WorkerCore(ENGINES)
    attempts = [taken(core, f"j{number}") for number in range(4)]
    for attempt in attempts:
        core.move(attempt, "ready")
    assert core.next_to_run("m") == [attempts[0]]
    assert core.next_to_run("m") == [attempts[1]]
    assert core.next_to_run("m") == []
    core.stop(attempts[0], "cancelled")
    assert attempts[0].phase == "stopping"
    assert core.next_to_run("m") == []
    core.move(attempts[0], "ending")
    assert core.next_to_run("m") == [attempts[2]]
    core.validate()


def test_a_spec_may_say_how_many_slots_there_are() -> None:
    core = WorkerCore(ENGINES)
    for number in range(3):
        core.move(taken(core, f"j{number}", slots=3), "ready")
    assert [len(core.next_to_run("m")) for _ in range(4)] == [1, 1, 1, 0]


def test_engines_that_name_a_lane_share_it_among_their_models() -> None:
    core = WorkerCore(ENGINES)
    one = taken(core, "a", engine="image", model="m1")
    two = taken(core, "b", engine="image", model="m2")
    assert one.lane == two.lane == "lane:device"
    core.move(two, "ready")
    core.move(one, "ready")
    assert core.next_to_run("lane:device") == [two], "the first that was ready"
    assert core.next_to_run("lane:device") == []


def image(prompt: str, **fields: Any) -> ImageInput:
    return ImageInput(prompt=prompt, **fields)


def batched(inputs: list[ImageInput], limit: int = 4) -> list[str]:
    """The jobs of the first batch."""
    core = WorkerCore(ENGINES)
    for number, asked in enumerate(inputs):
        core.move(taken(core, f"j{number}", engine="image", job_input=asked, options={"batch": limit}), "ready")
    batch = core.next_to_run("lane:device")
    core.validate()
    return [attempt.job for attempt in batch]


def test_like_pictures_run_together_up_to_the_limit_of_the_spec() -> None:
    alike = [image(f"p{number}", num_inference_steps=4) for number in range(6)]
    assert batched(alike) == ["j0", "j1", "j2", "j3"]
    assert batched(alike, limit=1) == ["j0"]


def test_no_more_run_together_than_the_scheduler_says() -> None:
    core = WorkerCore(ENGINES)
    for number, together in enumerate((2, 2, 2, 1)):
        given = assignment(f"j{number}", engine="image", job_input=image("a"), options={"batch": 4})
        assert isinstance(core.assign(msgspec.structs.replace(given, together=together), 5.0), Accepted)
        core.move(core.attempts()[-1], "ready")
    assert len(core.next_to_run("lane:device")) == 2
    for attempt in core.attempts()[:3]:
        core.move(attempt, "gone")
    assert len(core.next_to_run("lane:device")) == 1


@pytest.mark.parametrize(
    "other",
    [
        image("b", num_inference_steps=5),
        image("b", num_inference_steps=4, n=2),
        image("b", num_inference_steps=4, files={"image": Attachment(b"x")}),
    ],
)
def test_pictures_with_other_settings_do_not_run_along(other: ImageInput) -> None:
    first = image("a", num_inference_steps=4)
    assert batched([first, other, image("c", num_inference_steps=4, previews=3)]) == ["j0", "j2"]


def drawing(core: WorkerCore, job: str, n: int = 1) -> Attempt:
    """An attempt of a picture that runs now."""
    attempt = taken(core, job, engine="image", job_input=image("a", n=n))
    core.move(attempt, "ready")
    assert core.next_to_run("lane:device") == [attempt]
    return attempt


def test_the_next_is_drawn_while_the_pictures_of_the_one_before_are_written() -> None:
    core = WorkerCore(ENGINES)
    first = drawing(core, "a")
    assert core.drawn(first) and not core.drawn(first)
    assert first.phase in WAITS, "the scheduler is told that it takes no slot"
    second = drawing(core, "b")
    core.move(first, "ending")
    assert core.next_to_run("lane:device") == [], "the slot is the second's"
    assert core.drawn(second)
    core.validate()


def test_what_is_held_while_pictures_are_written_is_held_until_the_end() -> None:
    core = WorkerCore(ENGINES)
    attempt = drawing(core, "a")
    let_go: list[str] = []
    attempt.hold(lambda: let_go.append("model"))
    assert core.drawn(attempt) and not let_go
    assert core.stop(attempt, "cancelled"), "its engine must be told"
    assert attempt.phase == "stopping" and not let_go
    core.move(attempt, "ending")
    assert let_go == ["model"]
    core.validate()


def test_a_lane_holds_so_many_pictures_that_are_written_and_no_more() -> None:
    core = WorkerCore(ENGINES)
    many = drawing(core, "a", n=MAX_WRITTEN + 1)
    assert core.drawn(many), "one job has as many as it has"
    more = drawing(core, "b")
    assert not core.drawn(more)
    assert more.phase == "running"
    core.move(many, "ending")
    assert core.drawn(more)
    core.validate()


def test_one_that_was_told_to_stop_is_not_drawn_any_more() -> None:
    core = WorkerCore(ENGINES)
    attempt = drawing(core, "a")
    core.stop(attempt, "cancelled")
    assert not core.drawn(attempt)
    assert attempt.phase == "stopping"


def test_a_newer_term_is_followed_and_an_older_one_refused() -> None:
    core = WorkerCore(ENGINES)
    taken(core, "a", term=5)
    refused = core.assign(assignment("b", term=4), 1.0)
    assert isinstance(refused, Refused) and refused.is_permanent
    assert isinstance(core.assign(assignment("c", term=6), 1.0), Accepted)
    assert core.superseded(assignment("a", attempt=9, term=4)) is None


def test_the_same_assignment_again_is_accepted_and_changes_nothing() -> None:
    core = WorkerCore(ENGINES)
    attempt = taken(core)
    assert isinstance(core.assign(assignment(), 9.0), Accepted)
    assert core.current("j") is attempt
    assert len(core.attempts()) == 1


def test_an_earlier_attempt_than_the_one_that_is_here_is_refused() -> None:
    core = WorkerCore(ENGINES)
    attempt = taken(core, attempt=3)
    assert isinstance(core.assign(assignment(attempt=2), 1.0), Refused)
    assert core.current("j") is attempt


@pytest.mark.parametrize("phase", ["preparing", "ready", "running", "stopping"])
def test_a_later_attempt_takes_the_place_of_an_earlier_one(phase: Phase) -> None:
    core, earlier = in_phase(phase)
    later = assignment(attempt=2)
    assert core.superseded(later) is earlier
    assert isinstance(core.assign(later, 1.0), Refused), "the earlier one has to be revoked first"
    must_tell_engine = core.stop(earlier, "revoked")
    assert must_tell_engine == (phase == "running")
    assert isinstance(core.assign(later, 1.0), Accepted)
    newer = core.current("j")
    assert newer is not None and newer.assignment.attempt == 2
    assert [attempt.assignment.attempt for attempt in core.listed()] == [2]
    assert len(core.attempts()) == (2 if phase in TAKES_SLOT else 1)
    assert core.by_key(newer.key) is newer
    core.validate()


@pytest.mark.parametrize("reason", ["cancelled", "timeout"])
@pytest.mark.parametrize("phase", ["preparing", "ready"])
def test_one_that_does_not_run_ends_at_once(phase: Phase, reason: StopReason) -> None:
    core, attempt = in_phase(phase)
    assert not core.stop(attempt, reason)
    assert (attempt.phase, attempt.why_stopped) == ("ending", reason)
    assert core.next_to_run("m") == []
    core.validate()


def test_the_first_reason_to_stop_stands_but_a_revocation_wins() -> None:
    core, attempt = in_phase("running")
    assert core.stop(attempt, "timeout")
    assert not core.stop(attempt, "cancelled")
    assert attempt.why_stopped == "timeout"
    assert not core.stop(attempt, "revoked")
    assert attempt.why_stopped == "revoked"
    assert core.current("j") is None
    assert core.listed() == []
    core.validate()


@pytest.mark.parametrize("phase", ["ending", "gone"])
def test_one_that_has_ended_cannot_be_stopped(phase: Phase) -> None:
    core, attempt = in_phase(phase)
    assert not core.stop(attempt, "revoked")
    assert attempt.phase == phase
    core.validate()


def test_a_draining_worker_and_one_without_the_engine_refuse_for_good() -> None:
    core = WorkerCore(ENGINES)
    refused = core.assign(assignment(engine="other"), 1.0)
    assert isinstance(refused, Refused) and refused.is_permanent and "other" in refused.reason
    core.is_draining = True
    refused = core.assign(assignment(), 1.0)
    assert isinstance(refused, Refused) and refused.is_permanent
    assert core.is_idle


@pytest.mark.parametrize(
    "damage",
    [
        lambda core, attempt: setattr(attempt, "phase", "gone"),
        lambda core, attempt: setattr(attempt, "phase", "ready"),
        lambda core, attempt: setattr(attempt, "why_stopped", "revoked"),
        lambda core, attempt: core._running.update(m=5),
        lambda core, attempt: core._current.clear(),
    ],
)
def test_validate_sees_every_contradiction(damage: Any) -> None:
    core, attempt = in_phase("running")
    core.validate()
    damage(core, attempt)
    with pytest.raises(AssertionError):
        core.validate()


JOBS = st.sampled_from(["j1", "j2", "j3", "j4"])


class AttemptsMachine(RuleBasedStateMachine):
    """Commands and news of the runner in any order; pins are counted as the loader would."""

    def __init__(self) -> None:
        super().__init__()
        self.core = WorkerCore(ENGINES)
        self.pins = 0
        self.engine_runs: set[str] = set()

    def _attempts(self, *phases: Phase) -> list[Attempt]:
        return [attempt for attempt in self.core.attempts() if attempt.phase in phases]

    def pin(self, attempt: Attempt) -> None:
        self.pins += 1
        attempt.hold(self.unpin)

    def unpin(self) -> None:
        self.pins -= 1

    @rule(
        job=JOBS, attempt=st.integers(1, 4), term=st.integers(1, 3), engine=st.sampled_from(["text", "image"])
    )
    def assign(self, job: str, attempt: int, term: int, engine: str) -> None:
        given = assignment(job, attempt, term, engine)
        earlier = self.core.superseded(given)
        if earlier is not None:
            self.core.stop(earlier, "revoked")
        self.core.assign(given, 1.0)

    @rule()
    def bring_a_companion(self) -> None:
        for attempt in self._attempts("preparing")[:1]:
            self.pin(attempt)

    @rule()
    def become_ready(self) -> None:
        for attempt in self._attempts("preparing")[:1]:
            self.pin(attempt)
            self.core.move(attempt, "ready")

    @rule(lane=st.sampled_from(["m", "lane:device"]))
    def start(self, lane: str) -> None:
        for attempt in self.core.next_to_run(lane):
            assert attempt.key not in self.engine_runs
            self.engine_runs.add(attempt.key)

    @rule(job=JOBS, reason=st.sampled_from(["cancelled", "timeout", "revoked"]))
    def stop(self, job: str, reason: StopReason) -> None:
        attempt = self.core.current(job)
        if attempt is not None:
            must_tell = self.core.stop(attempt, reason)
            assert not must_tell or attempt.key in self.engine_runs

    @rule(outcome=st.sampled_from(["ending", "gone"]))
    def leave_the_engine(self, outcome: Phase) -> None:
        for attempt in self._attempts("running", "stopping")[:1]:
            self.engine_runs.discard(attempt.key)
            self.core.move(attempt, "gone" if attempt.why_stopped == "revoked" else outcome)

    @rule()
    def fail_to_prepare(self) -> None:
        for attempt in self._attempts("preparing")[:1]:
            self.core.move(attempt, "ending")

    @rule()
    def store_an_end(self) -> None:
        for attempt in self._attempts("ending")[:1]:
            self.core.move(attempt, "gone")

    @rule(engine=st.sampled_from(["text", "image"]))
    def lose_a_runner(self, engine: str) -> None:
        concerned = [one for one in self.core.attempts() if one.spec.engine == engine]
        self.engine_runs -= {one.key for one in concerned}
        for attempt in [one for one in concerned if one.phase in ("ready", "running")]:
            self.core.move(attempt, "gone")
        for attempt in [one for one in concerned if one.phase == "stopping"]:
            self.core.move(attempt, "gone" if attempt.why_stopped == "revoked" else "ending")

    @rule(is_draining=st.booleans())
    def drain(self, is_draining: bool) -> None:
        self.core.is_draining = is_draining

    @invariant()
    def counts_and_states_agree(self) -> None:
        self.core.validate()

    @invariant()
    def pins_are_held_by_attempts_only(self) -> None:
        held = sum(len(attempt._held) for attempt in self.core.attempts())
        assert self.pins == held

    @invariant()
    def what_runs_is_what_the_engine_runs(self) -> None:
        assert {attempt.key for attempt in self._attempts("running", "stopping")} == self.engine_runs

    def teardown(self) -> None:
        for attempt in self.core.attempts():
            if attempt.phase != "ending":
                self.core.move(attempt, "ending")
            self.core.move(attempt, "gone")
        assert self.pins == 0
        assert self.core.is_idle


AttemptsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAttemptsMachine = AttemptsMachine.TestCase
