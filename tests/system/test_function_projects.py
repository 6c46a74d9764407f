"""Projects of every shape on one running system: as they are, each in its own environment, checked at the door."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stoker import CallFailed, Client
from tests.conftest import ROOT, System, wait_for
from tests.fixtures import wheels

PROJECTS = ROOT / "tests" / "fixtures" / "projects"
SHAPES = ("plain", "model", "stream", "files", "package", "cancel", "flat-folder", "re-export")
SHOP = """\
import msgspec
from stoker import ActionContext, worker_function

class Nothing(msgspec.Struct):
    pass

class Sold(msgspec.Struct):
    what: str

@worker_function()
def sell(ctx: ActionContext, payload: Nothing) -> Sold:
    return Sold("a hat")
"""
EDITED = """\
import time
import msgspec
from stoker import ActionContext, worker_function
from .inner.value import VALUE

class Wait(msgspec.Struct):
    seconds: float = 0.0

class Value(msgspec.Struct):
    value: int

@worker_function()
def edited(ctx: ActionContext, payload: Wait) -> Value:
    ctx.progress(1, 2)
    time.sleep(payload.seconds)
    return Value(VALUE)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the projects that are made here lie in."""
    found = tmp_path_factory.mktemp("projects")
    (found / "installed" / "shop").mkdir(parents=True)
    (found / "installed" / "shop" / "__init__.py").write_text("")
    (found / "installed" / "shop" / "counter.py").write_text(SHOP)
    inner = found / "edited" / "inner"
    inner.mkdir(parents=True)
    (found / "edited" / "app.py").write_text(EDITED)
    (inner / "value.py").write_text("VALUE = 1\n")
    return found


@pytest.fixture(scope="module")
def system(folder: Path) -> Iterator[System]:
    projects = [str(PROJECTS / shape) for shape in SHAPES]
    projects += [
        str(wheels.project(folder / name, version, name)) for name, version in (("v1", "1.0"), ("v2", "2.0"))
    ]
    projects += ["shop.counter", str(folder / "edited")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "installed"), prepend=":")
        found = System(
            folder / "system", "workers: [{count: 1, engines: [function]}]\n", "--watch",
            *(part for project in projects for part in ("--functions", project)),
        )  # fmt: skip
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(system.url) as found:
        yield found


@pytest.mark.parametrize(
    ("function", "payload", "answer"),
    [
        ("fixed", {"word": "two"}, {"number": 2}),
        ("chosen", {"word": "one", "model_key": "large"}, {"number": 1}),
        ("bill", {"lines": {"nail": 2, "hammer": 1}}, {"cents": 1206}),
        ("idle", {"seconds": 0.0}, {"rounds": 0, "was_canceled": False}),
        ("cents", {"units": 3}, {"cents": 300, "name": "types of the project", "standard": True}),
        ("area", {"side": 3}, {"square": 9.0}),
        ("sell", {}, {"what": "a hat"}),
    ],
)
def test_a_project_of_any_shape_answers(
    client: Client, function: str, payload: dict[str, Any], answer: Any
) -> None:
    assert client.run(function, **payload) == answer


def test_a_model_that_no_key_names_is_refused_with_the_keys(system: System) -> None:
    answer = system.post("/v1/functions/chosen", {"word": "one", "model_key": "larger"})
    assert (answer.status_code, answer.json()["field"]) == (422, "model_key")
    assert "small, large" in answer.json()["detail"]


def test_a_call_knows_its_run_streams_and_is_cancelled(client: Client) -> None:
    job = client.submit("add", a=1, b=2)
    assert job.result() == {"total": 3, "run": job.id}
    assert [item["word"] for item in client.stream("split", text="a b c")] == ["a", "b", "c"]
    waiting = client.submit("idle", seconds=60.0)
    assert "started" in (event.name for event in waiting.events())
    waiting.cancel()
    with pytest.raises(CallFailed) as ended:
        waiting.result()
    assert ended.value.kind == "cancelled"


def test_a_file_goes_in_and_out_and_in_again(client: Client, system: System) -> None:
    hello = "data:text/plain;base64," + base64.b64encode(b"hello").decode()
    first = client.run("reverse", document={"ref": hello, "local_path": "/etc/passwd"})
    assert client.get(first["document"]["ref"]) == b"olleh"
    answer = httpx.get(system.url + first["document"]["ref"], timeout=10)
    assert "reversed.txt" in answer.headers["content-disposition"]
    second = client.run("reverse", document={"ref": first["document"]["ref"]})
    assert client.get(second["document"]["ref"]) == b"hello"
    assert (second["length"], second["document"]["mime_type"]) == (5, "text/plain")


def test_two_versions_of_a_package_live_beside_each_other(client: Client, system: System) -> None:
    one, two = client.run("v1"), client.run("v2")
    assert (one["version"], two["version"]) == ("1.0", "2.0")
    assert Path(one["prefix"]).parent == Path(two["prefix"]).parent == system.data / "environments"
    assert "its environment is ready after" in system.log.read_text()


@pytest.mark.parametrize(
    ("function", "payload", "field", "says"),
    [
        ("add", {"a": 3.0}, "a", "Expected `int`, got `float`"),
        ("add", {"a": 1, "until": "tomorrow"}, "until", "Invalid RFC3339 encoded datetime"),
        ("add", {"a": 1, "temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ("add", {"a": 1, "b": -1}, "b", "Expected `int` >= 0"),
        ("add", {}, "a", "it is required"),
        ("reverse", {"document": {"reff": "x"}}, "document.reff", "did you mean 'ref'?"),
    ],
)
def test_a_payload_is_checked_at_the_door_by_its_type(
    system: System, function: str, payload: dict[str, Any], field: str, says: str
) -> None:
    for path, body in (
        (f"/v1/functions/{function}", payload),
        ("/v1/jobs", {"model": function, "input": payload}),
    ):
        answer = httpx.post(system.url + path, json=body, timeout=10)
        assert (answer.status_code, answer.json()["field"].removeprefix("input.")) == (400, field), answer.text
        assert says in answer.json()["detail"]


def test_a_typed_client_is_written_from_what_is_served(system: System) -> None:
    command = [sys.executable, "-P", "-m", "stoker", "stubs", "--url", system.url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (
        "def run(self, function: Literal['add'], /, *, a: int, b: int = ..., temperature: float = ...," in text
    )
    assert "-> Iterator[Word]: ..." in text


def test_a_save_below_a_package_is_read_at_once_and_calls_under_way_end_on_the_old_code(
    client: Client, folder: Path
) -> None:
    slow = client.submit("edited", seconds=1.5)
    assert "progress" in (event.name for event in slow.events())
    (folder / "edited" / "inner" / "value.py").write_text("VALUE = 2\n")
    wait_for(lambda: client.run("edited") == {"value": 2}, 30, "the new code")
    assert slow.result() == {"value": 1}
