"""Projects of every shape are imported as they are, and answer; tests/fixtures/projects has them."""

from pathlib import Path
from typing import Any

import pytest

from stoker.functions.errors import FunctionError
from stoker.functions.local import run_apart, run_local
from stoker.functions.project import BadProject
from tests.conftest import ROOT

PROJECTS = ROOT / "tests" / "fixtures" / "projects"
HELLO = {"ref": "data:text/plain;base64,aGVsbG8="}


@pytest.mark.usefixtures("own_imports")
@pytest.mark.parametrize(
    ("shape", "function", "payload", "answer"),
    [
        ("plain", "add", {"a": 1, "b": 2}, {"total": 3, "run": "local"}),
        ("model", "fixed", {"word": "two"}, {"number": 2}),
        ("model", "chosen", {"word": "one", "model_key": "large"}, {"number": 1}),
        ("stream", "split", {"text": "a b"}, [{"word": "a"}, {"word": "b"}]),
        ("package", "bill", {"lines": {"nail": 2, "hammer": 1}}, {"cents": 1206}),
        ("cancel", "idle", {"seconds": 0.01}, {"rounds": 1, "was_canceled": False}),
        (
            "flat-folder",
            "cents",
            {"units": 3},
            {"cents": 300, "name": "types of the project", "standard": True},
        ),
        ("re-export", "area", {"side": 3}, {"square": 9.0}),
    ],
)
def test_a_project_of_any_shape_answers(
    shape: str, function: str, payload: dict[str, Any], answer: Any
) -> None:
    result, _ = run_local(PROJECTS / shape, function, payload)
    assert result == answer


@pytest.mark.usefixtures("own_imports")
def test_a_file_lies_where_its_asset_says_and_one_goes_out() -> None:
    asked = {"document": HELLO | {"local_path": "/etc/passwd"}}  # the caller's word is not taken for it
    result, [file] = run_local(PROJECTS / "files", "reverse", asked)
    assert (file.name, file.content, file.content_type) == ("runs/local/reversed.txt", b"olleh", "text/plain")
    assert result["length"] == 5
    assert result["document"]["ref"] == "/v1/jobs/local/files/0"
    assert "local_path" not in result["document"]


def test_a_call_of_ones_own_has_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "schemas.py").write_text("NAME = 'of the project'\n")
    (tmp_path / "app.py").write_text("""\
import sys
import msgspec
from schemas import NAME
from stoker import ActionContext, worker_function

class In(msgspec.Struct):
    fail: str = ""

class Out(msgspec.Struct):
    name: str
    others: list[str]

@worker_function()
def who(ctx: ActionContext, payload: In) -> Out:
    if payload.fail:
        sys.exit(3)
    return Out(NAME, sorted({"services", "stoker.services", "stoker.schemas", "httpx", "rich"} & set(sys.modules)))
""")
    assert run_apart(tmp_path, "who", {})[0] == {"name": "of the project", "others": []}
    with pytest.raises(FunctionError, match="ended its process with status 3"):
        run_apart(tmp_path, "who", {"fail": "now"})
    with pytest.raises(FunctionError, match="fial: there is no field 'fial'; did you mean 'fail'"):
        run_apart(tmp_path, "who", {"fial": "now"})


def test_what_happens_on_the_way_of_a_call_of_ones_own_is_heard(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    items: list[Any] = []
    result, _ = run_apart(
        PROJECTS / "stream", "split", {"text": "a b"}, lambda *step: steps.append(step), items.append
    )
    assert (steps, items) == ([(1, 2), (2, 2)], result)
    with pytest.raises(BadProject, match="there is no such folder"):
        run_apart(tmp_path / "none", "split", {})
    (tmp_path / "app.py").write_text("import nothing_like_this\n")
    with pytest.raises(BadProject, match=r"app\.py:1: import nothing_like_this"):
        run_apart(tmp_path, "split", {})
