"""What a call leaves behind is found, its memory is limited, its result has no NaN, its message no secrets."""

import os
import resource
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stoker.functions.errors import FatalError, kind_of, message_of, redacted
from stoker.functions.leftovers import Leftovers, descendants, end_processes, marked
from stoker.functions.memory import SLACK_BYTES, MemoryLimits, data_bytes, size_of
from stoker.functions.results import encoded


def test_children_are_found_however_deep_and_by_their_mark(tmp_path: Path) -> None:
    left = Leftovers(tmp_path)
    before = subprocess.Popen(["sleep", "600"])
    left.note()
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    shell = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "A_MARK": "7"})
    assert shell.stdout is not None
    child = int(shell.stdout.readline())
    assert set(descendants(os.getpid())) >= {before.pid, shell.pid, child}
    assert set(marked("A_MARK=7")) == {shell.pid, child}
    assert left.end_children() == 2
    assert shell.poll() is not None and before.poll() is None
    end_processes([before.pid, shell.pid])
    before.wait()
    shell.stdout.close()


def test_only_threads_that_run_the_projects_code_count(tmp_path: Path) -> None:
    left, going = Leftovers(tmp_path), threading.Event()
    left.note()
    code = compile("def go(event): event.wait(5)", str(tmp_path / "app.py"), "exec")
    names: dict[str, object] = {}
    exec(code, names)
    library = threading.Thread(target=going.wait, args=(5,))
    project = threading.Thread(target=names["go"], args=(going,), name="own")  # type: ignore[arg-type]
    library.start()
    project.start()
    assert left.stubborn_threads() == ["own"]
    left.note()
    assert left.stubborn_threads() == [], "it was there before"
    going.set()
    project.join()
    library.join()


@pytest.mark.parametrize(("text", "size"), [("", 0), ("600MB", 600e6), ("2GiB", 2 * 1024**3), ("1.5 k", 1500)])
def test_sizes(text: str, size: float) -> None:
    assert size_of(text) == size


def test_a_size_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="'much' is no size"):
        size_of("much")


def test_the_highest_limit_holds_and_a_call_without_one_lifts_it() -> None:
    limits, before = MemoryLimits(), resource.getrlimit(resource.RLIMIT_DATA)
    assert limits.limit_bytes is None
    most = 10**12
    limits.begin("a", most)
    limits.begin("b", 2 * most)
    assert limits.limit_bytes is not None
    assert 0 <= limits.limit_bytes - 2 * most - SLACK_BYTES <= 2 * data_bytes()
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == limits.limit_bytes
    limits.begin("c", 0)
    assert limits.limit_bytes is None
    for call in ("c", "b", "a", "a"):
        limits.end(call)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == before[1]
    resource.setrlimit(resource.RLIMIT_DATA, before)


class Deep(msgspec.Struct):
    numbers: list[float | None]
    named: dict[str, tuple[float, ...]] = {}


def test_a_null_is_a_null_and_a_nan_an_error_with_its_place() -> None:
    assert encoded("f", Deep([None, 1.0])) == b'{"numbers":[null,1.0],"named":{}}'
    for result, place in (
        (Deep([None, float("nan")]), r"numbers\[1\] \(nan\)"),
        (Deep([], {"a": (1.0, float("-inf"))}), r"named\.a\[1\] \(-inf\)"),
        ([Deep([]), Deep([float("inf")])], r"\[1\]\.numbers\[0\] \(inf\)"),
    ):
        with pytest.raises(FatalError, match=f"f returned a number at {place} that JSON has not"):
            encoded("f", result)


class Anything(msgspec.Struct):
    value: Any


@pytest.mark.parametrize(
    "value", [np.zeros(2), np.int64(1), pytest.param(10**5000, id="huge"), {(1, 2): 3}, "\udcff", object(), 1j]
)
def test_what_is_no_json_is_the_functions_fault_and_not_its_callers(value: Any) -> None:
    with pytest.raises(FatalError, match=r"^f returned what is no JSON: "):
        encoded("f", Anything(value))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(FatalError, match="recursion"):
        encoded("f", Anything(endless))


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"with {JWT} it is", "with *** it is"),
        ("id AKIAIOSFODNN7EXAMPLE", "id ***"),
        ("ASIAIOSFODNN7EXAMPLE.", "***."),
        (r"in C:\Users\me\private\x.py", "in …/x.py"),
        ("in C:/Users/me/x.py, line 3", "in …/x.py, line 3"),
        (r"open '\\server\share\private dir\a.txt' failed", "open '…/a.txt' failed"),
        ("ratio 3:4, a:b, AKIA and eyJust text", "ratio 3:4, a:b, AKIA and eyJust text"),
        ("see https://example.com/a/b?c", "see https://example.com/a/b?c"),
    ],
)
def test_what_may_be_secret_is_not_shown(said: str, shown: str) -> None:
    assert redacted(said) == shown


def test_a_value_error_is_the_callers_and_half_characters_are_written_out() -> None:
    assert [kind_of(error) for error in (ValueError(), KeyError(), UnicodeError())] == [
        "validation",
        "fatal",
        "fatal",
    ]
    assert message_of(RuntimeError("\udcff"), with_trace=True) == "RuntimeError: \\udcff"
