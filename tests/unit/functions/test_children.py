"""Calls that a call makes: their order, their failures, their names, and the limits."""

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.functions.children import MAX_CHILDREN, Children
from stoker.functions.context import ActionContext
from stoker.functions.errors import CallFailed, Cancelled, kind_of
from stoker.functions.local import run_local
from stoker.functions.messages import ChildAsked, ChildEnded, ChildLeft, Message
from stoker.functions.pending import PendingCalls
from tests.waiting import eventually


class Sum(msgspec.Struct):
    total: int


class Worker:
    """The other end: what a call has asked for; `answer` ends one."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.pending = PendingCalls(self.said.append)
        self.context = ActionContext(children=Children(self._ask))

    def _ask(self, name: str, payload: bytes, nth: int) -> "Future[Any]":
        return self.pending.ask("1", name, payload, nth)

    @property
    def asked(self) -> list[ChildAsked]:
        return [one for one in self.said if isinstance(one, ChildAsked)]

    @property
    def left(self) -> list[int]:
        return [one.number for one in self.said if isinstance(one, ChildLeft)]

    def answer(self, number: int, result: Any = None, **fields: str) -> None:
        self.pending.ended(ChildEnded("1", number, msgspec.json.encode(result), **fields))

    def answer_all(self, count: int, **fields: str) -> threading.Thread:
        """Answer so many, the last first, as soon as all are asked for."""

        def work() -> None:
            while len(self.asked) < count:
                threading.Event().wait(0.001)
            for one in reversed(self.asked):
                self.answer(one.number, {"total": one.number}, **fields)

        found = threading.Thread(target=work)
        found.start()
        return found


def test_results_come_in_the_order_of_the_calls_and_as_the_type_that_is_wanted() -> None:
    worker = Worker()
    answering = worker.answer_all(3)
    found = worker.context.gather([("f", {"n": n}) for n in range(3)], returns=Sum)
    answering.join()
    assert found == [Sum(1), Sum(2), Sum(3)]
    assert worker.context.gather([]) == []
    assert worker.left == []


def test_one_that_fails_cancels_the_others_unless_its_failure_is_wanted() -> None:
    worker = Worker()
    answering = threading.Timer(
        0.05, lambda: worker.answer(2, kind="validation", message="f: no", field="n", child="c2")
    )
    answering.start()
    with pytest.raises(CallFailed, match="f: no") as failed:
        worker.context.gather([("f", {"n": n}) for n in range(3)])
    assert (failed.value.kind, failed.value.field, failed.value.job) == ("validation", "n", "c2")
    assert sorted(worker.left) == [1, 3]
    worker = Worker()
    answering2 = worker.answer_all(2, kind="fatal", message="no")
    found = worker.context.gather([("f", {}), ("g", {})], return_exceptions=True)
    answering2.join()
    assert [type(one) for one in found] == [CallFailed, CallFailed]
    assert worker.left == []


async def test_in_async_functions_calls_are_awaited_and_a_plain_wait_is_an_error() -> None:
    worker = Worker()
    answering = worker.answer_all(3)
    one = asyncio.create_task(worker.context.call_async("f", {}))
    found = await worker.context.gather_async([("f", {"n": n}) for n in range(2)], returns=Sum)
    assert (await one)["total"] in (1, 2, 3)
    answering.join()
    assert len(found) == 2
    for wait in (lambda: worker.context.call("f"), lambda: worker.context.gather([("f", {})])):
        with pytest.raises(RuntimeError, match="_async"):
            wait()


async def test_who_stops_waiting_for_a_call_has_it_cancelled() -> None:
    worker = Worker()
    waiting = asyncio.create_task(worker.context.gather_async([("f", {}), ("f", {})]))
    await eventually(lambda: len(worker.asked) == 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sorted(worker.left) == [1, 2]
    worker.answer(1, {})  # it had ended meanwhile: nobody is told


def test_a_call_that_is_cancelled_is_woken_and_asks_for_nothing_more() -> None:
    worker = Worker()
    threading.Timer(0.05, lambda: worker.pending.cancelled("1")).start()
    with pytest.raises(Cancelled):
        worker.context.gather([("f", {}), ("f", {})], return_exceptions=True)
    with pytest.raises(Cancelled):
        worker.context.call("f")
    worker.pending.left("1")
    answering = worker.answer_all(3)
    assert worker.context.call("f")  # another call may have the number again
    answering.join()


def test_a_call_is_named_by_what_it_asks_and_how_many_times_that_was_asked_before() -> None:
    worker = Worker()
    begin = worker.context._children.begin
    for payload in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2}, Sum(1), {"total": 1}, None, {}):
        begin("f", payload)
    begin("g", {})
    assert [(one.name, one.payload, one.nth) for one in worker.asked] == [
        ("f", b'{"a":1,"b":2}', 0),
        ("f", b'{"a":1,"b":2}', 1),
        ("f", b'{"a":2}', 0),
        ("f", b'{"total":1}', 0),
        ("f", b'{"total":1}', 1),
        ("f", b"{}", 0),
        ("f", b"{}", 1),
        ("g", b"{}", 0),
    ]


def test_what_is_no_object_or_too_much_is_refused_before_anybody_is_asked() -> None:
    worker = Worker()
    with pytest.raises(TypeError, match="a dict or a Struct, not list"):
        worker.context.call("f", [1])
    with pytest.raises(TypeError):
        worker.context.gather([("f", {}), ("f", 3)])
    assert worker.left == [1]
    with pytest.raises(CallFailed, match=f"at most {MAX_CHILDREN}"):
        worker.context.gather([("f", {})] * (MAX_CHILDREN + 1))
    with pytest.raises(CallFailed, match="no server"):
        ActionContext().call("f")


def test_a_result_of_another_type_is_a_failure_that_says_where() -> None:
    worker = Worker()
    answering = threading.Timer(0.02, lambda: worker.answer(1, {"total": "many"}))
    answering.start()
    with pytest.raises(CallFailed, match=r"no Sum: Expected `int`, got `str` - at `\$.total`"):
        worker.context.call("f", returns=Sum)


@pytest.mark.parametrize(
    ("kind", "of_the_parent"), [("worker_lost", "resource"), ("retryable", "resource"), ("validation", "fatal")]
)
def test_what_an_uncaught_failure_makes_of_its_parent(kind: str, of_the_parent: str) -> None:
    assert kind_of(CallFailed("x", kind)) == of_the_parent


PROJECT = """
import msgspec
from stoker import ActionContext, CallFailed, worker_function

class N(msgspec.Struct):
    n: int
    width: int = 1
class Sum(msgspec.Struct):
    total: int
    said: str = ""

@worker_function()
def tree(ctx: ActionContext, payload: N) -> Sum:
    if not payload.n:
        return Sum(1)
    found = ctx.gather([("atree", N(payload.n - 1, payload.width))] * payload.width, returns=Sum)
    return Sum(1 + sum(one.total for one in found))
@worker_function()
async def atree(ctx: ActionContext, payload: N) -> Sum:
    if not payload.n:
        return Sum(1)
    found = await ctx.gather_async([("tree", N(payload.n - 1, payload.width))] * payload.width, returns=Sum)
    return Sum(1 + sum(one.total for one in found))
@worker_function()
def asks_badly(ctx: ActionContext, payload: N) -> Sum:
    try:
        ctx.call("tree", {"m": 1})
    except CallFailed as error:
        return Sum(0, f"{error.kind}: {error}")
@worker_function()
def loops(ctx: ActionContext, payload: N) -> Sum:
    return ctx.call("loops", N(payload.n + 1), returns=Sum)
"""


def test_without_a_server_functions_of_a_project_call_each_other(tmp_path: Path) -> None:
    (tmp_path / "functions_that_call.py").write_text(PROJECT)
    assert run_local(tmp_path, "tree", {"n": 3, "width": 4})[0]["total"] == 1 + 4 + 16 + 64
    said = run_local(tmp_path, "asks_badly", {"n": 0})[0]["said"]
    assert said.startswith("validation: tree:") and "'m'" in said
    with pytest.raises(CallFailed, match="8 deep"):
        run_local(tmp_path, "loops", {"n": 0})


@pytest.mark.parametrize("name", [1, None, ["f"], b"f", "\udcff"])
def test_a_name_that_is_none_is_refused_where_it_is_given_and_nothing_is_asked(name: Any) -> None:
    worker = Worker()
    with pytest.raises((TypeError, UnicodeEncodeError)):
        worker.context.call(name, {})
    with pytest.raises((TypeError, UnicodeEncodeError)):
        worker.context.gather([("f", {}), (name, {})])
    assert [one.name for one in worker.asked] == ["f"]
    assert worker.left == [1]
