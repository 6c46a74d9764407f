"""What a worker decides, one call at a time: what an attempt begins with, lanes, batches, and what stopping leaves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Spec
from stoker.schemas.jobs import Attachment, CompletionInput, ImageInput, Job, JobInput
from stoker.schemas.workers import Accepted, Assignment, EngineCapability, Refused
from stoker.services.worker.jobs.attempt import HOLDS, Attempt, Phase, StopReason
from stoker.services.worker.jobs.core import WorkerCore

ENGINES = {
    "text": EngineCapability(2, 1, ("TextGeneration",)),
    "image": EngineCapability(1, 1, ("ImageGeneration",), lane="device"),
    "upscale": EngineCapability(1, 1, ("SuperResolution",), lane="device"),
}
PICTURE = ImageInput("a cat", num_inference_steps=4)


def assignment(
    name: str = "j",
    attempt: int = 1,
    term: int = 1,
    engine: str = "text",
    given: JobInput | None = None,
    **fields: Any,
) -> Assignment:
    spec = {key: fields.pop(key) for key in ("options", "slots") if key in fields}
    job = Job(name, fields.pop("model", "m"), given or CompletionInput("x"), "gw", 1.0, **fields)
    return Assignment(job=job, attempt=attempt, term=term, spec=Spec("default", engine, "", **spec))


def take(core: WorkerCore, *args: Any, **fields: Any) -> Attempt:
    assert isinstance(core.assign(assignment(*args, **fields), 5.0, "trace"), Accepted)
    attempt = core.current(args[0] if args else "j")
    assert attempt is not None
    return attempt


def ready(core: WorkerCore, *args: Any, **fields: Any) -> Attempt:
    attempt = take(core, *args, **fields)
    core.move(attempt, "ready")
    return attempt


def names(found: list[Attempt]) -> list[str]:
    return [attempt.job for attempt in found]


# Taking -------------------------------------------------------------------------------------------


def test_an_attempt_begins_with_what_its_assignment_says() -> None:
    core = WorkerCore(ENGINES)
    attempt = take(core, "j", 3, 7, wants_events=True)
    assert (attempt.phase, attempt.accepted_at, attempt.trace, attempt.wants_events) == (
        "preparing", 5.0, "trace", True,
    )  # fmt: skip
    assert (attempt.job, attempt.key, attempt.order, attempt.model, attempt.lane) == (
        "j",
        "j/7.3",
        (7, 3),
        "m",
        "m",
    )
    assert (attempt.log.term, attempt.log.attempt, attempt.input) == (7, 3, CompletionInput("x"))
    assert attempt.spec == Spec("default", "text", "")
    assert core.by_key("j/7.3") is attempt
    assert not core.is_idle
    assert take(WorkerCore(ENGINES)).wants_events is False


def test_the_answer_says_how_many_jobs_are_here() -> None:
    core = WorkerCore(ENGINES)
    assert core.assign(assignment("a"), 1.0) == Accepted(1)
    assert core.assign(assignment("b"), 1.0) == Accepted(2)
    assert core.assign(assignment("a"), 1.0) == Accepted(2), "the same again"


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"term": 4}, Refused("a newer scheduler leads", is_permanent=True)),
        ({"term": 5, "attempt": 2}, Refused("a later attempt of this job is here")),
        ({"term": 5, "attempt": 4}, Refused("an earlier attempt of this job is still here")),
        ({"term": 6, "attempt": 1}, Refused("an earlier attempt of this job is still here")),
        ({"term": 5, "engine": "audio"}, Refused("this worker has no engine audio", is_permanent=True)),
    ],
)
def test_a_refusal_says_why_and_for_how_long(fields: dict[str, Any], answer: Refused) -> None:
    core = WorkerCore(ENGINES)
    take(core, "j", 3, 5)
    assert core.assign(assignment("j", **fields), 9.0) == answer
    assert names(core.listed()) == ["j"]
    core.validate()


def test_a_draining_worker_follows_a_newer_leader_and_takes_nothing() -> None:
    core = WorkerCore(ENGINES, is_draining=True)
    assert core.assign(assignment(term=6), 1.0) == Refused("this worker is draining", is_permanent=True)
    core.is_draining = False
    assert core.assign(assignment(term=5), 1.0) == Refused("a newer scheduler leads", is_permanent=True)
    assert core.assign(assignment(term=6), 1.0) == Accepted(1)


@pytest.mark.parametrize(
    ("attempt", "term", "is_superseded"),
    [(4, 5, True), (1, 6, True), (3, 5, False), (2, 5, False), (9, 4, False)],
)
def test_a_later_attempt_makes_the_earlier_worthless(attempt: int, term: int, is_superseded: bool) -> None:
    core = WorkerCore(ENGINES)
    earlier = take(core, "j", 3, 5)
    assert core.superseded(assignment("j", attempt, term)) is (earlier if is_superseded else None)
    assert core.superseded(assignment("other", attempt, term)) is None


def test_a_later_attempt_of_an_earlier_leader_supersedes_nothing_once_a_newer_one_spoke() -> None:
    core = WorkerCore(ENGINES)
    take(core, "j", 3, 5)
    take(core, "k", 1, 6)
    assert core.superseded(assignment("j", 4, 5)) is None


# Lanes and slots ----------------------------------------------------------------------------------


def test_lanes_are_apart_and_a_named_one_is_shared() -> None:
    core = WorkerCore(ENGINES)
    a, b = ready(core, "a", model="m1"), ready(core, "b", model="m2")
    draw, grow = ready(core, "draw", engine="image"), ready(core, "grow", engine="upscale")
    assert (draw.lane, grow.lane) == ("lane:device", "lane:device")
    assert core.next_to_run("m1") == [a]
    assert core.next_to_run("m2") == [b]
    assert core.next_to_run("lane:device") == [draw]
    assert core.next_to_run("lane:device") == []
    core.move(draw, "ending")
    assert core.next_to_run("lane:device") == [grow]
    assert core.next_to_run("nobody") == []


def test_who_is_ready_first_runs_first_whoever_came_first() -> None:
    core = WorkerCore(ENGINES)
    attempts = [take(core, name) for name in "abc"]
    for attempt in (attempts[2], attempts[0], attempts[1]):
        core.move(attempt, "ready")
    assert names([*core.next_to_run("m"), *core.next_to_run("m")]) == ["c", "a"]
    core.validate()


def test_one_that_ends_while_it_waits_leaves_its_place() -> None:
    core = WorkerCore(ENGINES)
    first, second = ready(core, "a"), ready(core, "b")
    core.move(first, "ending")
    assert core.next_to_run("m") == [second]
    core.move(second, "ending")
    assert (core._ready, core._running) == ({}, {})


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=30))
def test_a_lane_never_runs_more_than_its_slots_and_never_idles_while_somebody_waits(
    slots: int, steps: list[bool]
) -> None:
    core = WorkerCore(ENGINES)
    running: list[Attempt] = []
    for number, arrives in enumerate(steps):
        if arrives:
            ready(core, f"j{number}", slots=slots)
        elif running:
            core.move(running.pop(0), "gone")
        while batch := core.next_to_run("m"):
            running += batch
        waiting = [attempt for attempt in core.attempts() if attempt.phase == "ready"]
        assert len(running) <= slots
        assert not waiting or len(running) == slots
        core.validate()


def test_one_whose_calls_have_ended_runs_again_once_its_lane_has_a_free_slot() -> None:
    core = WorkerCore(ENGINES)
    caller, other = ready(core, "a", slots=1), ready(core, "b", slots=1)
    core.next_to_run("m")
    core.move(caller, "waiting")
    assert core.next_to_run("m") == [other], "who waits has no slot"
    core.move(caller, "resuming")
    assert core.next_to_resume("m") is None
    core.move(other, "gone")
    assert core.next_to_resume("elsewhere") is None
    assert core.next_to_resume("m") is caller
    assert (caller.phase, core.next_to_resume("m")) == ("running", None)
    core.validate()


# Batches ------------------------------------------------------------------------------------------


def batch(*asked: tuple[JobInput, dict[str, Any]], limit: int = 4) -> list[str]:
    core = WorkerCore(ENGINES)
    for number, (job_input, fields) in enumerate(asked):
        ready(core, f"j{number}", engine="image", given=job_input, options={"batch": limit}, **fields)
    return names(core.next_to_run("lane:device"))


def test_a_batch_takes_only_pictures_of_the_same_model_and_adapter() -> None:
    assert batch((PICTURE, {}), (PICTURE, {"model": "n"}), (PICTURE, {"adapter": "x"}), (PICTURE, {})) == [
        "j0",
        "j3",
    ]


def test_a_batch_is_no_larger_than_its_limit_and_leaves_the_rest_in_order() -> None:
    assert batch(*[(PICTURE, {})] * 5, limit=2) == ["j0", "j1"]
    assert batch(*[(PICTURE, {})] * 5, limit=5) == ["j0", "j1", "j2", "j3", "j4"]


@pytest.mark.parametrize(
    "alone",
    [ImageInput("a cat", n=2), ImageInput("a cat", files={"image": Attachment(b"x")}), CompletionInput("x")],
)
def test_what_is_not_drawn_in_batches_runs_alone_even_beside_its_like(alone: JobInput) -> None:
    assert batch((alone, {}), (alone, {})) == ["j0"]


def test_a_batch_counts_every_one_of_it_as_running() -> None:
    core = WorkerCore(ENGINES)
    for number in range(3):
        ready(core, f"j{number}", engine="image", given=PICTURE, options={"batch": 3})
    first, *others = core.next_to_run("lane:device")
    late = ready(core, "late", engine="image", given=PICTURE, options={"batch": 3})
    core.move(first, "ending")
    assert core.next_to_run("lane:device") == [], "two of the batch still run"
    for other in others:
        core.move(other, "gone")
    assert core.next_to_run("lane:device") == [late]
    core.validate()


# Stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["cancelled", "timeout", "revoked"])
def test_a_running_attempt_stops_when_its_engine_has(reason: StopReason) -> None:
    core = WorkerCore(ENGINES)
    attempt = ready(core)
    core.next_to_run("m")
    assert core.stop(attempt, reason)
    assert (attempt.phase, attempt.why_stopped) == ("stopping", reason)
    assert (core.current("j") is None) == (reason == "revoked")
    assert not core.stop(attempt, reason), "its engine was told already"
    core.validate()


@pytest.mark.parametrize("is_ready", [False, True])
def test_a_revoked_attempt_that_does_not_run_is_gone_without_a_word(is_ready: bool) -> None:
    core = WorkerCore(ENGINES)
    attempt = ready(core) if is_ready else take(core)
    let_go: list[str] = []
    attempt.hold(lambda: let_go.append("pin"))
    assert not core.stop(attempt, "revoked")
    assert (attempt.phase, let_go, core.is_idle, core.by_key(attempt.key)) == ("gone", ["pin"], True, None)
    core.validate()


def test_an_earlier_attempt_that_goes_does_not_take_the_newer_one_with_it() -> None:
    core = WorkerCore(ENGINES)
    earlier = ready(core)
    core.next_to_run("m")
    core.stop(earlier, "revoked")
    newer = take(core, "j", 2)
    assert core.attempts() == [earlier, newer]
    core.move(earlier, "gone")
    assert (core.current("j"), core.attempts(), core.listed()) == (newer, [newer], [newer])


@pytest.mark.parametrize("phase", ["ending", "gone"])
def test_what_is_held_after_the_end_is_let_go_at_once(phase: Phase) -> None:
    core = WorkerCore(ENGINES)
    attempt = take(core)
    core.move(attempt, phase)
    let_go: list[int] = []
    attempt.hold(lambda: let_go.append(1))
    assert (let_go, attempt.is_held, phase in HOLDS) == ([1], False, False)


def test_what_is_held_is_let_go_once_and_the_last_first() -> None:
    attempt = take(WorkerCore(ENGINES))
    let_go: list[int] = []
    for number in range(3):
        attempt.hold(lambda number=number: let_go.append(number))  # type: ignore[misc]
    assert attempt.is_held
    attempt.leave()
    attempt.leave()
    assert (let_go, attempt.is_held) == ([2, 1, 0], False)
