"""The states of a batch: only by the table, and what a state holds is given back by leaving it."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.batches import BatchRecord, BatchRequest, BatchStatus, RequestCounts, Segment
from stoker.services.gateway.batches.claim import BEAT_S, STALE_S
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.batch_states import TRANSITIONS, BadTransition, answer_of, has_ended, move
from stoker.services.gateway.routes.batches import cancelled, check_request

STATES: list[BatchStatus] = list(get_args(BatchStatus))


def record(status: BatchStatus = "validating", **fields: object) -> BatchRecord:
    given = {
        "id": "batch_1",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "created_at": 100,
        "expires_at": 200,
        "owner": "gw",
        "claim": 3,
        "done": b"\x07",
        "reserved": 128,
        "counts": RequestCounts(9, 2, 1),
    }
    return BatchRecord(status=status, **(given | fields))  # type: ignore[arg-type]


def test_the_table_has_every_state_and_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(STATES)
    reached = {after for targets in TRANSITIONS.values() for after in targets}
    assert reached == set(STATES) - {"validating"}
    assert {state for state in STATES if has_ended(state)} == {"completed", "failed", "expired", "cancelled"}
    for state in STATES:
        assert has_ended(state) or "failed" in TRANSITIONS[state]


@given(st.sampled_from(STATES), st.sampled_from(STATES))
def test_what_the_table_does_not_have_is_refused(before: BatchStatus, after: BatchStatus) -> None:
    found = record(before)
    if after not in TRANSITIONS[before]:
        with pytest.raises(BadTransition, match=f"{before} cannot become {after}"):
            move(found, after, 150.0)
        return
    moved = move(found, after, 150.9)
    assert (moved.status, moved.times[after]) == (after, 150)
    if has_ended(after):
        assert (moved.owner, moved.done, moved.reserved) == ("", b"", 0)
    else:
        assert (moved.owner, moved.done, moved.reserved) == (found.owner, found.done, found.reserved)
    assert moved.counts == found.counts


@given(st.lists(st.sampled_from(STATES), max_size=12))
def test_every_way_through_the_states_is_told_with_its_times(wanted: list[BatchStatus]) -> None:
    found, now, way = record(), 100.0, []
    for status in wanted:
        if status in TRANSITIONS[found.status]:
            now += 1
            found = move(found, status, now)
            way.append(status)
    answer = answer_of(found)
    assert answer.status == found.status
    told = {status: getattr(answer, f"{status}_at") for status in STATES if status != "validating"}
    assert {status for status, at in told.items() if at is not None} == set(way)
    assert [told[status] for status in way] == sorted(told[status] for status in way)


def test_an_answer_says_what_openai_says_and_nothing_of_who_runs_it() -> None:
    found = record("in_progress", metadata={"a": "b"}, outputs=(Segment("t", 1, 2),), times={"in_progress": 7})
    answer = answer_of(found)
    assert (answer.id, answer.endpoint, answer.input_file_id) == ("batch_1", found.endpoint, "file-1")
    assert (answer.completion_window, answer.object) == ("24h", "batch")
    assert (answer.created_at, answer.expires_at, answer.in_progress_at) == (100, 200, 7)
    assert answer.request_counts == RequestCounts(9, 2, 1)
    assert (answer.errors, answer.output_file_id, answer.metadata) == (None, None, {"a": "b"})
    assert not {"owner", "claim", "beat", "done", "outputs", "tenant"} & set(answer.__struct_fields__)


@pytest.mark.parametrize("status", STATES)
def test_what_is_under_way_can_be_cancelled_once(status: BatchStatus) -> None:
    if status == "cancelling":
        assert cancelled(record(status), 5.0) is None
    elif status in ("validating", "in_progress"):
        told = cancelled(record(status), 5.0)
        assert told is not None and (told.status, told.times["cancelling"]) == ("cancelling", 5)
    else:
        with pytest.raises(RequestError) as refused:
            cancelled(record(status), 5.0)
        assert (refused.value.status, refused.value.code) == (409, "conflict")


def test_a_living_owner_is_never_stale() -> None:
    assert STALE_S >= 4 * BEAT_S  # a beat may be late, and one more be lost


def asked(**fields: object) -> BatchRequest:
    given = {"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    return BatchRequest(**(given | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("endpoint", "/v1/images/generations", "/v1/chat/completions"),
        ("endpoint", "", "/v1/embeddings"),
        ("completion_window", "1h", "'24h'"),
        ("metadata", {"k" * 65: "v"}, "64"),
        ("metadata", {"k": "v" * 513}, "512"),
        ("metadata", {str(number): "v" for number in range(17)}, "16"),
    ],
)
def test_a_request_that_is_wrong_is_told_the_field_and_the_remedy(field: str, value: object, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_request(asked(**{field: value}))
    error = refused.value
    assert (error.status, error.field, error.code) == (400, field, "invalid_value")
    assert said in error.message


def test_the_most_metadata_is_taken() -> None:
    check_request(asked(metadata={f"{number:064}": "v" * 512 for number in range(16)}))
    check_request(asked(metadata=None))
