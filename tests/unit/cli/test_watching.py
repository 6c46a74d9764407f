"""A job on the terminal: states on the standard error, text on the standard output, one line at the end."""

import io
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stoker.cli import watching
from stoker.cli.watching import Answer, Line, bar, state_of, watch
from stoker.sse import Event

USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


def event(name: str, **data: Any) -> Event:
    return Event(name, data, "")


def ended(**result: Any) -> Event:
    return event("completed", status="completed", result=result or None, timings={"run_s": 2.0})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("name", "data", "shown"),
    [
        ("queued", {"position": 0}, "waiting, next in turn"),
        ("queued", {"position": 3, "eta_s": 12.4}, "waiting, 3 ahead, about 12 s"),
        ("provisioning", {"reason": "no gpu yet"}, "starting a worker: no gpu yet"),
        ("downloading", {"percent": 50.0}, f"getting m {bar(0.5)} 50 %"),
        ("loading", {"tier": "cold"}, "loading m …"),
        ("progress", {"step": 1, "steps": 4}, f"drawing {bar(0.25)} 1/4"),
        ("started", {}, ""),
    ],
)
def test_a_state_is_said_for_people(name: str, data: dict[str, Any], shown: str) -> None:
    assert state_of(event(name, **data), "m") == shown


@pytest.mark.parametrize(("share", "full"), [(-1, 0), (0, 0), (0.5, 12), (1, 24), (7, 24)])
def test_a_bar_is_as_full_as_its_share(share: float, full: int) -> None:
    assert bar(share) == "[" + "#" * full + "-" * (24 - full) + "]"


def test_a_file_gets_a_line_for_each_kind_and_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line()
    for percent in (1, 2, 3):
        line.show("downloading", f"getting {percent}")
    line.show("queued", "waiting")
    line.show("loading", "loading m")
    line.clear()
    assert capsys.readouterr().err == "getting 1\nloading m\n"


def test_a_file_is_told_that_a_state_lasts_and_not_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line(tick_s=0.01)
    line.show("queued", "waiting, next in turn")
    said = ""
    while said.count("\n") < 2:
        said += capsys.readouterr().err
    assert said.startswith("  … waiting, next in turn, 0 s\n")
    line.show("loading", "loading m …")
    while "  … loading m, 0 s\n" not in said:
        said += capsys.readouterr().err
    line.clear()
    ticking = [one for one in threading.enumerate() if one.name.endswith("(tell)")]
    for one in ticking:
        one.join(5)
    assert not any(one.is_alive() for one in ticking)


def test_a_terminal_sees_the_newest_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    line = Line()
    line.show("queued", "waiting")
    line.show("loading", "loading")
    line.clear()
    line.clear()
    assert shown.getvalue() == "\r\033[Kwaiting\r\033[Kloading\r\033[K"


def test_the_text_alone_goes_to_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        event("loading", tier="warm"), event("delta", text="a"), event("delta", text="b"),
        ended(text="ab", usage=USAGE, finish_reason="stop"),
    ]  # fmt: skip
    answer = watch(events, "m")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("ab\n", "loading m …\n")
    assert answer.text == "ab"


def test_for_scripts_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    watch([event("loading", tier="warm"), event("delta", text="a"), ended()], "m", is_quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ([event("failed", status="failed", error={"message": "broke"})], "failed: broke"),
        ([event("cancelled", status="cancelled")], "cancelled: "),
        ([], "lost: "),
    ],
)
def test_a_job_that_fails_ends_the_command(
    capsys: pytest.CaptureFixture[str], last: list[Event], says: str
) -> None:
    with pytest.raises(typer.Exit):
        watch([event("delta", text="a"), *last], "m")
    assert says in capsys.readouterr().err


def test_the_end_says_tokens_their_rate_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 10.5, 11.5])
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: next(now)))
    answer = Answer()
    for text in ("a", "b", "c"):
        answer.add(text)
    answer.end = ended(usage=USAGE, finish_reason="length").data
    assert answer.summary() == "4 tokens, 2 tok/s, length"


def test_text_that_comes_at_once_has_the_rate_of_its_run() -> None:
    answer = Answer()
    answer.end = ended(usage=USAGE, finish_reason="stop").data
    assert answer.summary() == "4 tokens, 2 tok/s, stop"
    answer.end = {"result": {"usage": {"completion_tokens": 1}, "finish_reason": "stop"}}
    assert answer.summary() == "1 token, stop"
    answer.end = {"result": {"images": []}}
    assert answer.summary() == ""
