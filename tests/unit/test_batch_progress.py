"""What is done of a batch: each line once, and what was not written is not lost by the next owner."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.schemas.batches import BatchRecord, LineError, RequestCounts
from stoker.schemas.openai import Usage
from stoker.services.gateway.batches.line_runs import is_passing
from stoker.services.gateway.batches.progress import (
    Progress,
    Unwritten,
    answered,
    job_name,
    not_run,
    progress_of,
    refused,
)
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.pages import page_of
from tests.unit.test_batch_states import record

TOTAL = 21


def read(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_written_as_openai_writes_it() -> None:
    done = answered("batch_1", 4, "mine", Usage(1, 2, 3))
    progress = progress_of(record(done=b"", counts=RequestCounts()), 9)
    progress.note(4, done)
    progress.note(5, refused("batch_1", 5, "wrong", RequestError(400, "no", field="n", code="invalid_value")))
    progress.note(6, not_run("batch_1", 6, "late", LineError("batch_expired", "over")))
    what = progress.unwritten()
    [output] = read(what.outputs)
    assert set(output) == {"id", "custom_id", "response", "error"}
    assert output["id"].startswith("batch_req_") and output["custom_id"] == "mine"
    assert output["response"] == {
        "status_code": 200,
        "request_id": "batch_1-4-0",
        "body": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    assert output["error"] is None
    wrong, late = read(what.failures)
    assert wrong["response"]["status_code"] == 400 and wrong["error"] is None
    assert wrong["response"]["body"]["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_value",
    }
    assert (late["response"], late["error"]) == (None, {"code": "batch_expired", "message": "over"})
    assert what.lines == (4, 5, 6)
    assert len({output["id"], wrong["id"], late["id"]}) == 3


def test_names_are_the_same_for_whoever_makes_them_and_of_one_line_only() -> None:
    names = {job_name(batch, line, answer) for batch in ("a", "b") for line in range(20) for answer in range(3)}
    assert len(names) == 120
    assert answered("a", 1, "x", {}).id == refused("a", 1, "y", RequestError(500, "")).id
    assert answered("a", 1, "x", {}).id != answered("b", 1, "x", {}).id


def test_a_line_has_one_result() -> None:
    progress = progress_of(record(done=b"", counts=RequestCounts()), 3)
    progress.note(1, answered("b", 1, "x", {}))
    with pytest.raises(AssertionError, match="line 1 has a result already"):
        progress.note(1, answered("b", 1, "x", {}))


@given(st.integers(1, 70), st.data())
def test_the_next_owner_goes_on_with_what_was_not_written(total: int, data: st.DataObject) -> None:
    lines = st.sets(st.integers(0, total - 1))
    first, second = data.draw(lines), data.draw(lines)
    progress = progress_of(record(done=b"", counts=RequestCounts(total)), total)
    for line in sorted(first):
        progress.note(line, answered("b", line, "x", {}))
    bits, counts = progress.with_written(progress.unwritten())
    successor = progress_of(record(done=bytes(bits), counts=counts), total)
    assert set(successor.left()) == set(range(total)) - first
    for line in second - first:
        successor.note(line, refused("b", line, "x", RequestError(400, "no")))
    _, counts = successor.with_written(successor.unwritten())
    assert counts == RequestCounts(total, len(first), len(second - first))


class Writing(RuleBasedStateMachine):
    """Lines come, are written or not, and owners change: no line is lost, none is written twice."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: BatchRecord = record(done=b"", counts=RequestCounts())
        self.progress: Progress = progress_of(self.kept, TOTAL)
        self.taken: Unwritten | None = None
        self.files: list[str] = []

    @precondition(lambda self: any(self.progress.left()))
    @rule(data=st.data(), fails=st.booleans())
    def a_line_ends(self, data: st.DataObject, fails: bool) -> None:
        line = data.draw(st.sampled_from(list(self.progress.left())))
        error = RequestError(400, "no")
        made = refused("b", line, str(line), error) if fails else answered("b", line, str(line), {})
        self.progress.note(line, made)

    @rule()
    def writing_begins(self) -> None:
        self.taken = self.progress.unwritten()

    @precondition(lambda self: self.taken is not None)
    @rule()
    def it_is_written(self) -> None:
        assert self.taken is not None
        bits, counts = self.progress.with_written(self.taken)
        self.kept = record(done=bytes(bits), counts=counts)
        self.files += [one["custom_id"] for one in read(self.taken.outputs + self.taken.failures)]
        self.progress.wrote(self.taken)
        self.taken = None

    @rule()
    def another_takes_it(self) -> None:
        self.progress, self.taken = progress_of(self.kept, TOTAL), None

    @invariant()
    def every_line_is_left_or_waits_or_is_written_once(self) -> None:
        assert len(self.files) == len(set(self.files))
        waiting = [str(line) for line in self.progress.unwritten().lines]
        left = [str(line) for line in self.progress.left()]
        assert sorted([*self.files, *waiting, *left], key=int) == [str(line) for line in range(TOTAL)]
        counts = self.progress.counts
        assert counts.completed + counts.failed == len(self.files)
        assert self.progress.has_unwritten == bool(waiting)
        assert all(self.progress.is_left(int(line)) for line in left)


Writing.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWriting = Writing.TestCase


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "queue_full", True),
        (503, None, True),
        (507, "insufficient_storage", True),
        (503, "impossible", False),
        (400, None, False),
        (404, "model_not_found", False),
        (500, None, False),
        (504, "timeout", False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(status: int, code: str | None, expected: bool) -> None:
    assert is_passing(RequestError(status, "x", code=code)) is expected


# Pages --------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=4), unique=True, max_size=25), st.integers(1, 10))
def test_pages_have_everything_once_in_order(names: list[str], limit: int) -> None:
    names = [name or "-" for name in names if name != "-"]
    found: list[str] = []
    after, has_more = "", True
    while has_more:
        page, has_more = page_of(names, lambda name: name, after, limit, 10)
        assert len(page) <= limit
        found += page
        after = found[-1] if found else ""
    assert found == names


@pytest.mark.parametrize(("limit", "after", "field"), [(0, "", "limit"), (11, "", "limit"), (5, "z", "after")])
def test_a_page_that_cannot_be_is_refused(limit: int, after: str, field: str) -> None:
    with pytest.raises(RequestError) as refusal:
        page_of(["a", "b"], lambda name: name, after, limit, 10)
    assert (refusal.value.status, refusal.value.field) == (400, field)
