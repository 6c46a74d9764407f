"""Calling functions: signatures that are possible, loaders, results, and what a call leaves behind."""

import asyncio
import threading
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from stoker.functions import (
    ActionContext,
    Cancelled,
    FatalError,
    ModelRef,
    Src,
    ValidationError,
    register_loader,
    worker_function,
)
from stoker.functions.calling import call, read_payload
from stoker.functions.loading import CannotLoad, class_name, load_model
from stoker.functions.signature import BadSignature, Function, read_function


class In(msgspec.Struct):
    n: int
    key: str = "a"


class Out(msgspec.Struct):
    n: int


class Thing:
    """Something to be injected."""

    class Inner:
        @classmethod
        def from_pretrained(cls, path: Path) -> Any:
            return ("inner", path)


Model = Annotated[Thing, ModelRef(Src.FIXED, "a")]


def declared(function: Any) -> Function:
    return read_function(worker_function()(function))


@pytest.mark.parametrize(
    ("hint", "streams"),
    [
        (Out, False),
        *((kind[Out], True) for kind in (Iterator, Iterable, AsyncIterator)),
        (Generator[Out, None, None], True),
        (AsyncGenerator[Out, None], True),
        (typing.Iterator[Out], True),
    ],
)
def test_an_iterator_of_structs_streams(hint: Any, streams: bool) -> None:
    def f(ctx: ActionContext, payload: In): ...  # type: ignore[no-untyped-def]

    f.__annotations__["return"] = hint
    found = declared(f)
    assert (found.result, found.streams, found.is_async) == (Out, streams, False)


@pytest.mark.parametrize("hint", [None, int, dict, list[Out], Iterator[int], Out | None])
def test_what_a_function_returns_must_be_a_struct(hint: Any) -> None:
    def f(ctx: ActionContext, payload: In): ...  # type: ignore[no-untyped-def]

    f.__annotations__["return"] = hint
    with pytest.raises(BadSignature, match="f: the return must be annotated as a msgspec Struct"):
        declared(f)


def test_a_function_that_may_not_be_called_is_refused_with_the_parameter() -> None:
    def nothing() -> Out: ...  # type: ignore[empty-body]
    def wrong_first(payload: In, ctx: ActionContext) -> Out: ...  # type: ignore[empty-body]
    def no_payload(ctx: ActionContext, m: Model) -> Out: ...  # type: ignore[empty-body]
    def two(ctx: ActionContext, a: In, b: In) -> Out: ...  # type: ignore[empty-body]
    def many(ctx: ActionContext, payload: In, *rest: int) -> Out: ...  # type: ignore[empty-body]
    def bare(ctx: ActionContext, payload: In, m) -> Out: ...  # type: ignore[no-untyped-def, empty-body]
    def key(ctx: ActionContext, payload: In, m: Annotated[Thing, ModelRef(Src.PAYLOAD, "nokey")]) -> Out: ...  # type: ignore[empty-body]

    for function, says in (
        (nothing, "the first parameter must be an ActionContext, not none"),
        (wrong_first, "the first parameter must be an ActionContext, not payload"),
        (no_payload, "exactly one parameter must be a msgspec Struct, the payload; found none"),
        (two, "the payload; found a, b"),
        (many, r"\*rest: int is not possible; name every parameter"),
        (bare, "parameter m must be the payload"),
        (key, "reads its model from payload.nokey, and In has no such field"),
    ):
        with pytest.raises(BadSignature, match=says):
            declared(function)


def test_a_loader_of_a_class_is_asked_and_the_last_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.functions.loading._loaders", {})
    name = class_name(Thing)
    with pytest.raises(CannotLoad, match=r"has no from_pretrained; register_loader\(Thing, …\) says how"):
        load_model(name, tmp_path)
    register_loader(object, lambda path: "any")
    register_loader(Thing, lambda path: ("thing", path))
    assert load_model(name, tmp_path) == ("thing", tmp_path)
    register_loader(int, lambda path: 7)
    assert load_model(name, tmp_path) == ("thing", tmp_path)


def test_a_class_inside_another_is_found_by_its_name(tmp_path: Path) -> None:
    assert load_model(class_name(Thing.Inner), tmp_path) == ("inner", tmp_path)


@pytest.mark.parametrize("name", ["no_such_module:K", "json:Nothing", "json:JSONDecoder.nothing", "json"])
def test_a_class_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=f"{name} cannot be imported"):
        load_model(name, tmp_path)


@pytest.mark.parametrize("payload", [{}, {"n": "1"}, {"n": None}, {"n": 1.5}, {"n": 1, "key": 3}])
def test_a_wrong_payload_is_a_validation_error(payload: dict[str, Any]) -> None:
    def f(ctx: ActionContext, payload: In) -> Out: ...  # type: ignore[empty-body]

    with pytest.raises(ValidationError, match=r"Expected|missing"):
        read_payload(declared(f), payload)


async def run(function: Any, cancelled: threading.Event | None = None) -> tuple[Any, list[Any], ActionContext]:
    items: list[Any] = []
    context = ActionContext(cancelled=cancelled)
    result = await call(declared(function), context, In(3), {}, items.append)
    return result, items, context


async def test_each_kind_of_function_gives_its_results() -> None:
    def plain(ctx: ActionContext, payload: In) -> Out:
        return Out(payload.n)

    async def waits(ctx: ActionContext, payload: In) -> Out:
        await asyncio.sleep(0)
        return Out(payload.n)

    def streams(ctx: ActionContext, payload: In) -> Iterator[Out]:
        yield from map(Out, range(payload.n))

    def a_list(ctx: ActionContext, payload: In) -> Iterable[Out]:
        return [Out(number) for number in range(payload.n)]

    async def streams_too(ctx: ActionContext, payload: In) -> AsyncIterator[Out]:
        for number in range(payload.n):
            yield Out(number)

    for one in (plain, waits):
        assert (await run(one))[:2] == (Out(3), [])
    for several in (streams, a_list, streams_too):
        assert (await run(several))[:2] == ([Out(0), Out(1), Out(2)],) * 2


async def test_the_folder_of_a_call_is_gone_whatever_came_of_it() -> None:
    seen: list[Path] = []

    def fails(ctx: ActionContext, payload: In) -> Out:
        seen.append(ctx.folder)
        (ctx.folder / "x").write_text("x")
        raise KeyError("no")

    with pytest.raises(KeyError):
        await run(fails)
    assert seen and not seen[0].exists()


async def test_a_stream_ends_between_two_results_when_it_is_cancelled() -> None:
    cancelled = threading.Event()
    made: list[int] = []

    async def streams(ctx: ActionContext, payload: In) -> AsyncIterator[Out]:
        for number in range(9):
            made.append(number)
            if number == 2:
                cancelled.set()
            yield Out(number)

    with pytest.raises(Cancelled):
        await run(streams, cancelled)
    assert made == [0, 1, 2]


async def test_a_result_of_another_type_is_fatal_and_names_both() -> None:
    async def streams(ctx: ActionContext, payload: In) -> AsyncIterator[Out]:
        yield Out(1)
        yield typing.cast(Out, In(1))

    with pytest.raises(FatalError, match="streams must return Out, and returned In"):
        await run(streams)
