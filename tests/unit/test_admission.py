"""What is refused at once, and what never is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.schemas.fleet import QueueDepth
from stoker.schemas.jobs import CompletionInput, FunctionInput, Job
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.sse import StreamLimit, comment, sse
from stoker.services.gateway.jobs.admission import Admission

JOB = Job(id="j", model="m", input=CompletionInput("hi"), gateway="g", created_at=1.0)


def refusal(depth: QueueDepth, job: Job = JOB, status: int = 503) -> RequestError:
    with pytest.raises(RequestError) as refused:
        Admission({"m": depth}, 10).check(job, impossible_status=status)
    return refused.value


def test_what_can_never_run_is_refused_with_the_status_of_its_route() -> None:
    depth = QueueDepth("m", 0, 0, impossible="no worker has 80 GB")
    assert [refusal(depth, status=status).status for status in (422, 503)] == [422, 503]
    assert refusal(depth).code == "impossible"


def test_with_a_disk_that_is_nearly_full_no_job_is_accepted_and_it_says_why_and_when() -> None:
    found = ""
    admission = Admission({}, 10, lambda: found)
    admission.check(JOB, 503)
    found = "3 of 100 MB free"
    with pytest.raises(RequestError, match=r"3 of 100 MB free.*make room") as raised:
        admission.check(JOB, 422)
    assert (raised.value.status, raised.value.code, raised.value.retry_after_s) == (
        507,
        "insufficient_storage",
        10,
    )


def test_what_passes_says_when_to_come_back_and_what_is_final_does_not() -> None:
    depth = QueueDepth("m", 0, 0, impossible="no worker has the engine")
    assert refusal(depth, status=503).retry_after_s is not None
    assert refusal(depth, status=422).retry_after_s is None


@given(queued=st.integers(0, 50), limit=st.integers(0, 50), eta_s=st.one_of(st.none(), st.floats(0, 1000)))
def test_a_queue_is_full_at_its_limit_and_says_when_to_come_back(
    queued: int, limit: int, eta_s: float | None
) -> None:
    admission = Admission({"m": QueueDepth("m", queued, 0, limit=limit, eta_s=eta_s)}, 10)
    try:
        admission.check(JOB, 503)
    except RequestError as error:
        assert limit and queued >= limit
        assert error.status == 429
        assert error.retry_after_s is not None and error.retry_after_s >= 1
    else:
        assert not limit or queued < limit


def test_a_deadline_that_cannot_be_met_is_said_and_one_that_can_is_not() -> None:
    depth = QueueDepth("m", 3, 1, eta_s=2.0, best_s=1.0)
    late = refusal(depth, replace(JOB, deadline_s=2.5))
    assert (late.status, late.field, late.code) == (422, "deadline_s", "would_miss_deadline")
    Admission({"m": depth}, 10).check(replace(JOB, deadline_s=1e9), 503)
    Admission({"m": replace(depth, best_s=None)}, 10).check(replace(JOB, deadline_s=0.001), 503)
    Admission({}, 10).check(replace(JOB, deadline_s=0.001), 503)


def test_generations_that_wait_are_counted_here_before_the_scheduler_reports_them() -> None:
    admission = Admission({"m": QueueDepth("m", 0, 1)}, 2)
    with (
        admission.generation({"m": None}),
        admission.generation({"m": None}),
        admission.generation({"m": None}),
    ):
        assert admission.generations == 3
        with pytest.raises(RequestError, match="2 generations wait already"), admission.generation({"m": None}):
            pass
    assert admission.generations == 0
    with pytest.raises(KeyError), admission.generation({"m": None}):
        raise KeyError
    assert admission.generations == 0


def test_streams_are_counted_whatever_ends_them() -> None:
    limit = StreamLimit(1)
    with pytest.raises(KeyError), limit.opened(""):
        with pytest.raises(RequestError) as refused, limit.opened(""):
            pass
        assert (refused.value.status, refused.value.code) == (429, "too_many_streams")
        raise KeyError
    assert limit.open == 0
    with limit.opened(""):
        assert limit.open == 1


def test_an_event_is_framed_as_browsers_read_it() -> None:
    assert sse(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert sse(b"1", "delta", "7.1.2.3") == b"id: 7.1.2.3\nevent: delta\ndata: 1\n\n"
    assert comment("waiting") == b": waiting\n"


def test_a_call_is_refused_for_its_own_least_time_and_not_for_those_before_it() -> None:
    depth = QueueDepth("f", 3, 1, eta_s=5.0, best_s=0.0)
    called = replace(JOB, model="f", input=FunctionInput("f", {}), deadline_s=0.5)
    Admission({"f": depth}, 10).check(called, 503)
    with pytest.raises(RequestError, match=r"it takes 1\.0 s at least and the deadline is 0\.5 s"):
        Admission({"f": replace(depth, best_s=1.0)}, 10).check(called, 503)
