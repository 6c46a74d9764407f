"""Calls of calls in a running system: one worker, one slot; what ends with whom; workers that die."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker import CallFailed, Client
from tests.conftest import System, wait_for

PROJECT = """
import os
import time
from pathlib import Path
import msgspec
from stoker import ActionContext, CallFailed, worker_function

MARKS = Path(__file__).with_name("marks")

class Node(msgspec.Struct):
    depth: int
    width: int = 1
    name: str = "r"
    seconds: float = 0.0
class Sum(msgspec.Struct):
    total: int
    said: str = ""

def mark(name: str, what: str) -> None:
    with MARKS.open("a") as file:
        file.write(f"{what} {name}\\n")

def below(node: Node) -> list:
    return [Node(node.depth - 1, node.width, f"{node.name}.{n}", node.seconds) for n in range(node.width)]

@worker_function()
def tree(ctx: ActionContext, payload: Node) -> Sum:
    mark(payload.name, "begin")
    if payload.depth:
        found = ctx.gather([("tree", one) for one in below(payload)], returns=Sum)
    else:
        found = []
        ctx.wait_cancelled(payload.seconds)
        ctx.raise_if_cancelled()
    mark(payload.name, "end")
    return Sum(1 + sum(one.total for one in found))
@worker_function()
async def async_tree(ctx: ActionContext, payload: Node) -> Sum:
    if not payload.depth:
        return Sum(1)
    found = await ctx.gather_async([("async_tree", one) for one in below(payload)], returns=Sum)
    return Sum(1 + sum(one.total for one in found))
@worker_function()
def catches(ctx: ActionContext, payload: Node) -> Sum:
    said = []
    for name, asked in (("nobody", {}), ("tree", {"depth": "x"}), ("fails", payload)):
        try:
            ctx.call(name, asked)
        except CallFailed as error:
            said.append(f"{error.kind}|{error.field}|{bool(error.job)}")
    return Sum(0, " ".join(said))
@worker_function()
def fails(ctx: ActionContext, payload: Node) -> Sum:
    raise RuntimeError("broken")
@worker_function()
def asks_for_fails(ctx: ActionContext, payload: Node) -> Sum:
    calls = [("fails", payload), ("tree", Node(0, name="cancelled", seconds=600))]
    return ctx.gather(calls, returns=Sum)[0]
"""


def system_of(folder: Path, workers: int) -> Iterator[System]:
    project = folder / "project"
    project.mkdir()
    (project / "app.py").write_text(PROJECT)
    config = f"workers: [{{count: {workers}, engines: [function], memory: 300MB}}]\n"
    found = System(folder, config, "--functions", str(project), "--no-environments")
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker, on which each function has one slot."""
    yield from system_of(tmp_path_factory.mktemp("calls"), 1)


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[System]:
    yield from system_of(tmp_path, 2)


def submit(system: System, function: str, **payload: Any) -> str:
    answer = system.post(f"/v1/functions/{function}", payload, headers={"prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    return job


def marks(system: System, what: str) -> Counter[str]:
    path = system.data.parent / "project" / "marks"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.partition(" ")[2] for line in lines if line.startswith(what))


def test_calls_call_five_deep_and_twenty_wide_with_one_slot(one_slot: System) -> None:
    with Client(one_slot.url) as client:
        assert client.run("tree", depth=5) == {"total": 6, "said": ""}
        assert client.run("tree", depth=2, width=20)["total"] == 421
        assert client.run("async_tree", depth=2, width=20)["total"] == 421
        with pytest.raises(CallFailed, match="8 deep"):
            client.run("async_tree", depth=9)


def test_failures_come_typed_and_the_others_of_a_gather_are_cancelled(one_slot: System) -> None:
    with Client(one_slot.url) as client:
        said = client.run("catches", depth=0)["said"].split()
        assert said == ["validation|model|False", "validation|depth|False", "fatal||True"]
        with pytest.raises(CallFailed, match="fails: RuntimeError: broken"):
            client.run("asks_for_fails", depth=0)
    found = one_slot.get("/v1/jobs", params={"model": "tree", "status": "running"})["jobs"]
    wait_for(lambda: not one_slot.get("/v1/jobs", params={"status": "running"})["jobs"], 20, f"none of {found}")


def test_cancelling_a_job_cancels_what_it_has_called_and_both_say_so(one_slot: System) -> None:
    job = submit(one_slot, "tree", depth=2, width=2, name="c", seconds=600)
    wait_for(lambda: marks(one_slot, "begin")["c.0.0"], 20, "a call of a call")
    shown = one_slot.job(job)
    assert shown["child_count"] == 2
    explained = one_slot.get(f"/v1/jobs/{job}/explain")
    assert {one["id"] for one in explained["children"]} == {one["id"] for one in shown["children"]}
    said = subprocess.run(
        [sys.executable, "-P", "-m", "stoker", "explain", shown["children"][0]["id"], "--url", one_slot.url],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert f"called by the job {job}" in said
    assert one_slot.post(f"/v1/jobs/{job}/cancel", {}).status_code == 202
    ended = one_slot.ended(job)
    assert (ended["status"], [one["status"] for one in ended["children"]]) == ("cancelled", ["cancelled"] * 2)
    for child in ended["children"]:
        view = one_slot.ended(child["id"])
        assert (view["status"], view["parent"]) == ("cancelled", job)
    wait_for(lambda: not one_slot.get("/v1/jobs", params={"status": "running"})["jobs"], 20, "nothing to run")
    assert not marks(one_slot, "end").keys() & {"c", "c.0", "c.0.0"}


def kill_with_children(pid: int) -> None:
    """kill -9 a worker, its runners and its hosts."""
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def completed(system: System) -> dict[str, float]:
    """When each job that has completed did."""
    found = system.get("/v1/jobs", params={"limit": 200, "status": "completed"})["jobs"]
    return {one["id"]: system.job(one["id"])["finished_at"] for one in found}


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_tree_of_calls_costs_no_call_that_had_ended(two_workers: System) -> None:
    job = submit(two_workers, "tree", depth=3, width=3, seconds=0.5)
    wait_for(lambda: sum(marks(two_workers, "end").values()) >= 6, 60, "some calls to end")
    parent = two_workers.job(job)
    before = completed(two_workers)
    kill_with_children(two_workers.pid(parent["worker"]))
    found = two_workers.ended(job, 120)
    assert found["status"] == "completed", found
    assert found["result"]["total"] == 1 + 3 + 9 + 27
    after = completed(two_workers)
    assert {one: after[one] for one in before} == before  # none of them was run again
    stored = Counter(one["id"] for one in two_workers.get("/v1/jobs", params={"limit": 200})["jobs"])
    assert len(stored) == 1 + 3 + 9 + 27
    assert max(stored.values()) == 1


@pytest.mark.slow
def test_a_gateway_that_is_killed_costs_no_call(two_workers: System) -> None:
    job = submit(two_workers, "tree", depth=2, width=4, seconds=1.0)
    wait_for(lambda: marks(two_workers, "begin")["r.0.0"], 20, "a call of a call")
    two_workers.kill("gateway")
    two_workers.wait_ready()
    found = two_workers.ended(job, 120)
    assert found["result"]["total"] == 1 + 4 + 16, json.dumps(found)
    assert set(marks(two_workers, "end").values()) == {1}


@pytest.mark.slow
def test_a_scheduler_that_is_killed_costs_no_call(two_workers: System) -> None:
    job = submit(two_workers, "tree", depth=2, width=4, seconds=1.0)
    wait_for(lambda: marks(two_workers, "begin")["r.0.0"], 20, "a call of a call")
    two_workers.kill("scheduler")
    found = two_workers.ended(job, 120)
    assert found["result"]["total"] == 1 + 4 + 16, json.dumps(found)
    assert set(marks(two_workers, "end").values()) == {1}
