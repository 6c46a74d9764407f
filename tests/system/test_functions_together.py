"""Functions that are given several models, on workers where not all of them fit: refused, or answered; nobody waits."""

import threading
from collections.abc import Iterator

import pytest

from stoker import Client
from tests.conftest import System
from tests.system.launched import wait_up

PROJECT = """
import time
from typing import Annotated
import msgspec
from stoker import ActionContext, ModelRef, ResourceRequirements, Src, worker_function

class Model:
    def __init__(self, path):
        self.path = path
    @classmethod
    def from_pretrained(cls, path):
        time.sleep(0.2)
        return cls(path.name)
class One(msgspec.Struct):
    key: str
class Pair(msgspec.Struct):
    first: str
    second: str
class Names(msgspec.Struct):
    names: list[str]

needs = ResourceRequirements(vram="130MB")

@worker_function(needs)
def use(ctx: ActionContext, one: Annotated[Model, ModelRef(Src.PAYLOAD, "key")], payload: One) -> Names:
    return Names([one.path])
@worker_function(needs)
def pair(
    ctx: ActionContext,
    one: Annotated[Model, ModelRef(Src.PAYLOAD, "first")],
    two: Annotated[Model, ModelRef(Src.PAYLOAD, "second")],
    payload: Pair,
) -> Names:
    return Names([one.path, two.path])
@worker_function(needs)
def all_three(
    ctx: ActionContext,
    one: Annotated[Model, ModelRef(Src.FIXED, "a")],
    two: Annotated[Model, ModelRef(Src.FIXED, "b")],
    three: Annotated[Model, ModelRef(Src.FIXED, "c")],
    payload: One,
) -> Names:
    return Names([one.path, two.path, three.path])
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("together")
    project = folder / "project"
    for name in "abc":
        (project / name).mkdir(parents=True)
        (project / name / "weights").write_text(name)
    (project / "app.py").write_text(PROJECT)
    lines = [f'{name} = "file://./{name}"' for name in "abc"]
    (project / "pyproject.toml").write_text("\n".join(["[tool.stoker.models]", *lines]))
    found = System(
        folder, "workers: [{count: 2, engines: [function], memory: 300MB}]\n", "--functions", str(project)
    )
    try:
        wait_up(found)
        yield found
    finally:
        found.stop()


@pytest.mark.slow
def test_a_set_that_fits_nowhere_is_refused_at_once_and_harms_nobody(system: System) -> None:
    with Client(system.url) as client:
        assert client.run("use", key="a") == {"names": ["a"]}
        for _ in range(3):
            answer = system.post("/v1/functions/all_three", {"key": "x"})
            assert (answer.status_code, answer.json()["type"]) == (422, "urn:stoker:impossible")
            assert "a 130 MB + b 130 MB + c 130 MB = 390 MB" in answer.json()["detail"]
        assert [client.run("use", key=key)["names"] for key in "abcabc"] == [[key] for key in "abcabc"]


@pytest.mark.slow
def test_two_callers_that_want_pairs_in_another_order_are_both_answered(system: System) -> None:
    answers: list[list[str]] = []

    def ask(first: str, second: str) -> None:
        with Client(system.url) as client:
            for _ in range(100):
                answers.append(client.run("pair", first=first, second=second)["names"])

    callers = [threading.Thread(target=ask, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for caller in callers:
        caller.start()
    with Client(system.url) as client:
        for _ in range(5):
            assert client.run("use", key="c") == {"names": ["c"]}
    for caller in callers:
        caller.join()
    assert sorted(answers) == [["a", "b"]] * 100 + [["b", "a"]] * 100
