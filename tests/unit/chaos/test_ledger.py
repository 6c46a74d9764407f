"""The ledger finds each kind of broken promise, and none where all were kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.chaos.ledger import (
    PROMISES,
    SILENT_S,
    Broken,
    End,
    Job,
    Ledger,
    Silence,
    disturbed_during,
    judge,
    silence_beyond,
)
from stoker.chaos.plan import Fault
from stoker.chaos.report import report_of


def accepted(**fields: object) -> Ledger:
    """A ledger with one job that was accepted."""
    ledger = Ledger()
    job = ledger.job("j", "hello")
    job.accepted_at = 1.0
    for name, value in fields.items():
        setattr(job, name, value)
    return ledger


def end(status: str = "completed", text: str | None = "hello", at: float = 2.0, **fields: str) -> End:
    return End(at, fields.pop("gateway", "a"), status, text if status == "completed" else None, **fields)


def promises(ledger: Ledger, *faults: Fault) -> list[str]:
    return [broken.promise for broken in judge(ledger, faults)]


def test_a_job_that_ended_well_and_is_told_the_same_everywhere_breaks_nothing() -> None:
    ends = [end(), end(gateway="b"), end(gateway="stream")]
    assert promises(accepted(ends=ends, streams=["hello"], ends_in_a_stream=1)) == []


def test_a_job_that_was_never_accepted_is_promised_nothing() -> None:
    ledger = Ledger()
    ledger.job("j").missing.append((1.0, "a"))
    assert promises(ledger) == []


@pytest.mark.parametrize(
    ("fields", "promise"),
    [
        ({"missing": [(3.0, "a")], "ends": [end()]}, "lost"),
        ({"ends": [end(), end("failed", gateway="b")]}, "doubled"),
        ({"ends": [end("cancelled"), end()], "is_cancelled": True}, "doubled"),
        ({"ends": [end()], "ends_in_a_stream": 2}, "doubled"),
        ({"ends": [end(text="hullo")]}, "wrong"),
        ({"ends": [end()], "streams": ["hellohello"]}, "wrong"),
        ({"ends": [end("cancelled")]}, "ended by nobody"),
        ({"ends": [end("failed", reason="worker_lost")]}, "failed by infrastructure"),
        ({"ends": [end("expired")]}, "failed by infrastructure"),
        ({}, "never ended"),
    ],
)
def test_each_broken_promise_is_found(fields: dict[str, object], promise: str) -> None:
    found = promises(accepted(**fields))
    assert promise in found
    assert set(found) <= {promise, "failed by infrastructure", "doubled"}


def test_a_cancel_that_somebody_asked_for_is_kept_whichever_way_it_went() -> None:
    assert promises(accepted(ends=[end("cancelled")], is_cancelled=True)) == []
    assert promises(accepted(ends=[end()], is_cancelled=True)) == []


def test_what_has_no_text_is_not_wrong_and_not_another_end() -> None:
    assert promises(accepted(ends=[end(text=None), end(gateway="b")])) == []
    ledger = Ledger()
    job = ledger.job("image")
    job.accepted_at, job.ends = 0.0, [end(text="anything")]
    assert promises(ledger) == [], "nobody knows what it should be"


def test_a_refusal_is_found_with_its_words() -> None:
    ledger = Ledger()
    ledger.refusals.append((4.0, "submit: 500 oops"))
    assert judge(ledger, []) == [Broken("refused", "", "submit: 500 oops", 4.0)]


def test_a_silence_is_measured_without_the_time_of_faults() -> None:
    ledger = Ledger()
    ledger.waited(10.0, 10.5, "soon")
    assert ledger.silences == []
    ledger.waited(10.0, 25.0, "late")
    assert promises(ledger) == ["silent"]
    pause = Fault(20.0, "pause", "nats", 0.5, 5.0)
    assert promises(ledger, pause) == []
    assert promises(ledger, Fault(26.0, "pause", "nats", 0.5, 5.0)) == ["silent"], "that was later"
    assert silence_beyond(ledger, [pause]) == (15.0, 10.0)
    at_once = [pause, Fault(21.0, "cut", "worker", 0.5, 2.0), Fault(24.0, "kill", "worker", 0.5, 9.0)]
    assert silence_beyond(ledger, at_once) == (15.0, 10.0), "together they lasted no longer"


@given(began=st.floats(0, 100), seconds=st.floats(0.1, 100), at=st.floats(0, 100), lasts=st.floats(0.1, 50))
def test_a_fault_counts_as_far_as_it_overlaps(began: float, seconds: float, at: float, lasts: float) -> None:
    found = disturbed_during([Fault(at, "pause", "nats", 0.0, lasts)] * 2, began, began + seconds)
    overlap = max(min(at + lasts, began + seconds) - max(at, began), 0.0)
    assert found == pytest.approx(overlap)


@given(
    st.lists(
        st.tuples(st.sampled_from(["completed", "cancelled", "failed"]), st.sampled_from(["x", "y"])),
        max_size=6,
    )
)
def test_two_ends_that_differ_are_always_found_and_equal_ones_never_are(ends: list[tuple[str, str]]) -> None:
    job_ends = [End(2.0, "a", status, text if status == "completed" else None) for status, text in ends]
    ledger = Ledger(jobs={"j": Job("j", None, 1.0, is_cancelled=True, ends=job_ends)})
    differ = len({(one.status, one.text) for one in job_ends}) > 1
    assert ("doubled" in promises(ledger)) == differ
    assert ("never ended" in promises(ledger)) == (not ends)


def test_the_report_counts_says_and_tells_the_story() -> None:
    ledger = accepted(ends=[end(text="hullo", at=7.0)])
    ledger.requests = 3
    ledger.silences.append(Silence(5.0, 5.0 + SILENT_S, "x"))
    faults = [Fault(6.5, "kill", "worker", 0.1, 0.5), Fault(90.0, "pause", "nats", 0.1, 3.0)]
    report = report_of(7, ledger, faults)
    assert not report.is_good
    said = report.as_dict()
    assert (said["seed"], said["requests"], said["jobs_accepted"]) == (7, 3, 1)
    assert said["broken"] == {promise: int(promise == "wrong") for promise in PROMISES}
    [story] = said["stories"]
    assert story[0].startswith("wrong j: 'hullo' instead of 'hello'")
    assert [line.split("s  ")[1] for line in story[1:]] == [
        "accepted",
        "kill worker for 0.5 s",
        "completed at a 'hullo'",
    ]
    text = "\n".join(report.lines())
    assert "seed 7" in text and "1 x kill worker" in text and "wrong                     1" in text
    assert report_of(7, accepted(ends=[end()]), []).is_good


def test_a_process_that_ended_by_itself_breaks_a_promise() -> None:
    ledger = accepted(ends=[end()])
    ledger.crashes.append((4.0, "gateway-1 ended by itself with status 1"))
    (broken,) = judge(ledger, [])
    assert (broken.promise, broken.at) == ("crashed", 4.0)
    assert "status 1" in broken.detail
