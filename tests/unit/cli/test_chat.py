"""A conversation: what is typed, what the model is told, and commands with a slash."""

from typing import Any

import pytest
from typer.testing import CliRunner

from stoker.cli.chat import Conversation, messages
from stoker.cli.main import app
from tests.unit.cli.gateway import Answer, answering, events

CARD: Answer = (200, {"features": ["TextGeneration"]})


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["a", " b "], ["a", "b"]),
        (['"""one', "two", 'three"""', "x"], ["one\ntwo\nthree", "x"]),
        (['"""', "one", '"""'], ["one"]),
        (['"""one"""'], ["one"]),
        (['"""open', "end"], ["open\nend"]),
        (["", "  "], ["", ""]),
    ],
)
def test_three_quotes_hold_several_lines(typed: list[str], expected: list[str]) -> None:
    assert list(messages(iter(typed))) == expected


def test_the_model_is_told_what_was_said_before() -> None:
    talk = Conversation("be brief")
    talk.answered("a", "b")
    assert talk.messages("c") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_commands() -> None:
    talk = Conversation()
    talk.answered("a", "b")
    assert talk.command("/history") == "user: a\nassistant: b"
    assert talk.command("/system you are a poet") == "the model is told so from now on"
    assert talk.system == "you are a poet"
    assert talk.command("/clear") == "what was said is forgotten"
    assert talk.command("/history") == "nothing was said"
    assert "/bye" in (talk.command("/help") or "")
    assert talk.command("/nothing") == "there is no /nothing; /help shows what there is"
    assert [talk.command(one) for one in ("/bye", "/exit", "/quit")] == [None] * 3


def text_job(*pairs: tuple[str, Any]) -> dict[str, Answer]:
    return {
        "GET /v1/models/m": CARD,
        "POST /v1/jobs": (202, {"id": "j"}),
        "GET /v1/jobs/j/events": (200, events(*pairs)),
    }


def test_a_talk_goes_on_until_bye() -> None:
    end = {"status": "completed", "result": {"text": "yes"}}
    with answering(text_job(("delta", {"text": "yes"}), ("completed", end))) as server:
        typed = "one\n/clear\ntwo\nthree\n/bye\nfour\n"
        result = CliRunner().invoke(app, ["chat", "m", "--url", server.url, "--system", "s"], input=typed)
    assert (result.exit_code, result.stdout) == (0, "yes\n" * 3)
    told = [body["input"]["messages"] for asked, _, body in server.asked if asked == "POST /v1/jobs"]
    assert [[one["content"] for one in said] for said in told] == [
        ["s", "one"], ["s", "two"], ["s", "two", "yes", "three"],
    ]  # fmt: skip


def test_an_answer_that_fails_is_not_remembered_and_the_talk_goes_on() -> None:
    end = {"status": "failed", "error": {"kind": "fatal", "message": "broke"}}
    with answering(text_job(("failed", end))) as server:
        result = CliRunner().invoke(app, ["chat", "m", "--url", server.url], input="one\ntwo\n")
    assert result.exit_code == 0 and result.stderr.count("failed: broke") == 2
    told = [body["input"]["messages"] for asked, _, body in server.asked if asked == "POST /v1/jobs"]
    assert [len(said) for said in told] == [1, 1]


def test_who_writes_no_text_is_not_talked_to() -> None:
    with answering({"GET /v1/models/m": (200, {"features": ["ImageGeneration"]})}) as server:
        result = CliRunner().invoke(app, ["chat", "m", "--url", server.url], input="")
    assert result.exit_code == 1 and "m writes no text: `stoker run` asks it" in result.stderr
